"""Generation of docs/reference.md, with every command-line option and Python function, from their declarations.

Run it after changing an option, a help text or the docstring of a public function.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import click

import srkd
from srkd.cli import VERBS, cli
from srkd.options import declarations
from srkd.verb import VerbCommand

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reference.md"

INTRODUCTION = """\
# Reference

Every option of the command line and every function of `import srkd`. This page is written by
`scripts/write_reference.py` from the declarations that the program itself reads; `srkd VERB --help` says the same
without the rarest options.
The column Python is the keyword of the function of the same name; – is for the command line alone. The lines of
Python are the examples of its docstring, which tests run.

Functions return frozen dataclasses. They take two callbacks in addition: `progress(title, done, total)` and
`announce(line)`, which receives one line for a person. `srkd.load` and `srkd.inspect` take the facts of
`--arch-option` as further keywords: `srkd.load("edsr.pt", res_scale=0.1)`.
"""

PYTHON_ONLY = ("load", "save", "build_student", "cost", "resume")


def write() -> str:
    """Return the page."""
    parts = [INTRODUCTION, "## Command line\n", _common_options()]
    for name in VERBS:
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        parts.append(f"### srkd {name}\n")
        if isinstance(command, click.Group):
            parts.append(_text(command.help))
            for action, subcommand in command.commands.items():
                parts += [f"#### srkd {name} {action}\n", *_verb(f"{name} {action}", subcommand)]
        else:
            parts += _verb(name, command)
    parts.append("## Functions without a verb\n")
    for name in PYTHON_ONLY:
        function = getattr(srkd, name)
        # Annotations are strings, as their modules are not imported for them: without their quotes.
        signature = re.sub(r"(: |-> )'([^']*)'", r"\1\2", str(inspect.signature(function)))
        signature = re.sub(r"<function (\w+) at \w+>", r"\1", signature)
        parts += [f"### srkd.{name}\n", f"```python\nsrkd.{name}{signature}\n```\n", _text(function.__doc__)]
    return "\n".join(parts)


def _verb(name: str, command: click.Command) -> Iterator[str]:
    context = click.Context(command, info_name=f"srkd {name}")
    yield _text(command.help)
    yield f"```\n{command.get_usage(context).removeprefix('Usage: ')}\n```\n"
    if name in srkd.__all__:
        yield _examples(getattr(srkd, name).__doc__)
    options = command.options if isinstance(command, VerbCommand) else None
    declared = {} if options is None else {row.name: row for row in declarations(options)}
    has_function = name in srkd.__all__
    rows = []
    for parameter in command.params:
        if parameter.name in COMMON:
            continue
        row = declared.get(str(parameter.name))
        is_rare = isinstance(parameter, click.Option) and parameter.hidden
        if isinstance(parameter, click.Option):
            parameter.hidden = False  # this page has the rare options, too
        syntax, text = parameter.get_help_record(context) or ("", "")
        if isinstance(parameter, click.Option):
            parameter.hidden = is_rare
        if isinstance(parameter, click.Argument):
            syntax, text = parameter.make_metavar(context), "" if row is None else row.option.full_help
        if row is not None and row.option.by_set:
            text += f" Also `--set {row.name}=...`."
        if row is not None and row.option.aliases:
            text += f" Also {', '.join(f'`{flag}`' for flag in row.option.aliases)}."
        syntax, text = syntax.replace(" RANGE", ""), text.replace("  [", " [")
        keyword = f"`{parameter.name}`" if row is not None else "–"
        rows.append((f"`{syntax}`", *([keyword] if has_function else []), text))
    if rows:
        yield _table(("option", *(["Python"] if has_function else []), "meaning"), rows)


COMMON = ("as_json", "verbose", "quiet")


def _common_options() -> str:
    command = cli.get_command(click.Context(cli), next(iter(VERBS)))
    assert command is not None
    records = [p.get_help_record(click.Context(command)) for p in command.params if p.name in COMMON]
    return "Every verb has these options.\n\n" + _table(
        ("option", "meaning"), [(f"`{record[0]}`", record[1]) for record in records if record is not None]
    )


def _examples(docstring: str | None) -> str:
    """Return the Python lines in a docstring; tests/srkd/test_python_api.py runs them."""
    lines = re.findall(r"^ *>>> (.*)$", docstring or "", flags=re.MULTILINE)
    return "```python\n" + "\n".join(lines) + "\n```\n"


def _text(docstring: str | None) -> str:
    return inspect.cleandoc(docstring or "") + "\n"


def _table(headings: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [headings, tuple("---" for _ in headings), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


if __name__ == "__main__":
    PAGE.write_text(write(), encoding="utf-8")
