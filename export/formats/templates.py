"""Texts from the templates of a package: cards, READMEs, scripts and pages beside exported files."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape


def render(package: str, template: str, **values: object) -> str:
    """A template of the package's folder `templates` with its values; only HTML is escaped."""
    return environment_of(package).get_template(template).render(values)


@cache
def environment_of(package: str) -> Environment:
    """The templates of a package."""
    environment = Environment(
        loader=PackageLoader(package),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    plain: Callable[[object], str] = _plain
    environment.filters["plain"] = plain
    return environment


def _plain(value: object) -> str:
    """Text from a file on one line, with Markdown's markup escaped."""
    return "".join("\\" + c if c in "\\`*_{}[]<>#|!&" else c for c in " ".join(str(value).split()))
