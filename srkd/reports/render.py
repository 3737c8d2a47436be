"""Pages from the templates beside this file. They escape all text, so that no name in a run folder can be markup."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from compressor.base.machine import count_threads
from srkd.terminal.tables import is_numeric
from srkd.version import __version__


def render_page(**values: object) -> str:
    """The page of `values`, with style and script inside. It fetches nothing and runs only this script."""
    own_files = [files("srkd.reports") / "templates" / name for name in ("report.css", "report.js")]
    style, script = (Markup(file.read_text(encoding="utf-8")) for file in own_files)  # noqa: S704
    script_hash = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    page = _environment().get_template("page.html")
    own = {"style": style, "script": script, "script_hash": script_hash}
    return page.render(values, **own, version=__version__)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("srkd.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.tests["numeric"] = is_numeric
    environment.filters |= {"data_url": _data_url, "figure": _figure, "threads": count_threads}
    return environment


def _figure(value: float | None, text: str, unit: float = 1.0) -> str:
    """A number of a table in a format such as "%.1f"; unknown ones are a dash."""
    return "–" if value is None else text % (value / unit)


def _data_url(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
