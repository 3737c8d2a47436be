"""docs/reference.md is the output of scripts/write_reference.py, and has every option, public function and type."""

from __future__ import annotations

import dataclasses
import inspect
import re

import click

import srkd
from export.writing.exporting import ExportReport
from scripts import write_reference as script
from scripts.python_types import Names, classes_in, hints_of, members, own_docstring, results
from srkd.cli.main import VERBS, cli


def page() -> str:
    return script.PAGE.read_text(encoding="utf-8")


def section(heading: str) -> str:
    """Return the text below a heading, up to the next one."""
    return re.split(r"^#+ ", page().partition(f"\n### {heading}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]


def test_the_committed_page_is_what_the_script_writes() -> None:
    assert page() == script.write(), "run: python scripts/write_reference.py"


def test_the_page_has_every_option() -> None:
    for verb in VERBS:
        command = cli.get_command(click.Context(cli), verb)
        assert command is not None and f"### srkd {verb}\n" in page()
        for action in command.commands.values() if isinstance(command, click.Group) else [command]:
            for parameter in action.params:
                assert all(option in page() for option in parameter.opts if option.startswith("-"))


def test_every_public_name_has_an_entry() -> None:
    for name in srkd.__all__:
        value = getattr(srkd, name)
        if isinstance(value, str):
            assert section(f"`srkd.{name}`").strip()
            continue
        text = section(f"srkd.{name}")
        assert inspect.cleandoc(value.__doc__).splitlines()[0] in text, name
        if not isinstance(value, type):
            signature = re.findall(r"^```python\n(srkd\..*?)\n```$", text, re.MULTILINE | re.DOTALL)[0]
            assert signature.startswith(f"srkd.{name}(") and re.search(r"\) -> \w", signature), name
            assert all(f"{parameter}: " in signature for parameter in inspect.signature(value).parameters), name


def test_every_dataclass_that_functions_return_has_an_entry_with_its_fields() -> None:
    functions = [value for value in (getattr(srkd, name) for name in srkd.__all__) if inspect.isfunction(value)]
    reached = results(kind for one in functions for kind in classes_in(hints_of(one)["return"]))
    names = Names.of([*reached, srkd.Network, srkd.Teacher], {})
    assert {"CompressReport", "PlanFiles", "UpscaleReport", "Quality"} <= {kind.__name__ for kind in reached}
    for kind in reached:
        text = section(names.of_class(kind))
        assert own_docstring(kind) and own_docstring(kind) in text, kind
        for field in dataclasses.fields(kind):
            assert f"| `{field.name}` | `" in text, (kind, field.name)


def test_members_are_fields_and_what_has_a_docstring() -> None:
    rows = {row.name: (row.type, row.text) for row in members(ExportReport, Names.of([], {}))}
    assert list(rows) == ["files", "compared_on", "warning", "licence", "ok", "failed"]
    assert rows["files"] == ("tuple[FileReport, ...]", "")
    assert rows["warning"][0] == "str | None" and rows["warning"][1].startswith("A warning about the network")
    assert rows["ok"] == (
        "bool",
        "True if every format was written, and passed the comparison if such files run here.",
    )
