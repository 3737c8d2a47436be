"""Generation of docs/reference.md, with every command-line option, Python function and type, from their declarations.

Run it after changing an option, a help text, or the docstring or fields of something public.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

import srkd
from compressor.base.context import Note, Progress
from scripts.markdown import table
from scripts.python_types import Names, classes_in, hints_of, members, own_docstring, results, signature
from srkd.cli.main import VERBS, cli
from srkd.cli.verb import VerbCommand
from srkd.options.declare import declarations

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reference.md"

INTRODUCTION = """\
# Reference

Every option of the command line, every function and type of `import srkd`, and what the functions return. This page
is written by `scripts/write_reference.py` from the declarations that the program itself reads; `srkd VERB --help` says
the same without the rarest options. The keys of a recipe have [a page of their own](recipe-reference.md).
The column Python is the keyword of the function of the same name; – is for the command line alone.
"""

ABOUT_FUNCTIONS = """\
Functions return frozen dataclasses; what these hold stands [below](#results). A wrong argument or file raises an
`SrkdError`. Most functions take two callbacks: `progress(title, done, total)`, of the type `Progress` =
`Callable[[str, int, int], None]`, and `announce(line)`, which receives one line for a person, of the type `Note` =
`Callable[[str], None]`. `srkd.load` and `srkd.inspect` take the facts of `--arch-option` as further keywords:
`srkd.load("edsr.pt", res_scale=0.1)`. Tests run the examples.
"""

ABOUT_PARTS = """\
The dataclasses inside those results. Of two with one name, each is shown with its module.
"""

VALUES = {"__version__": "The version of srkd, such as `0.1.0`."}
"""What `srkd` exports beside functions and classes."""


def write() -> str:
    """Return the page."""
    parts = [INTRODUCTION, "## Command line\n", _common_options()]
    for name in VERBS:
        command = _command(name)
        parts.append(f"### srkd {name}\n")
        if isinstance(command, click.Group):
            parts.append(_text(command.help))
            for action, subcommand in command.commands.items():
                parts += [f"#### srkd {name} {action}\n", *_verb(f"{name} {action}", subcommand)]
        else:
            parts += _verb(name, command)
    return "\n".join([*parts, *_python()])


def _command(verb: str) -> click.Command:
    command = cli.get_command(click.Context(cli), verb)
    assert command is not None
    return command


def _python() -> Iterator[str]:
    """Yield the functions, the public types, the results of the functions, and the dataclasses inside results."""
    public = {name: getattr(srkd, name) for name in srkd.__all__ if name not in VALUES}
    functions = {name: value for name, value in public.items() if not isinstance(value, type)}
    hints = {name: _hints(name, function) for name, function in functions.items()}
    types = [value for value in public.values() if isinstance(value, type)]
    returned = [kind for one in hints.values() for kind in classes_in(one["return"])]
    all_results = results(returned)
    names = Names.of([*types, *all_results], {Progress: "Progress", Note: "Note"})
    yield "## Python functions\n"
    yield ABOUT_FUNCTIONS
    for name, function in functions.items():
        yield f"### srkd.{name}\n"
        yield f"```python\n{signature(f'srkd.{name}', function, hints[name], names)}\n```\n"
        yield from _function(name, function)
        links = [_link(kind, names, types) for kind in classes_in(hints[name]["return"])]
        if links:
            yield f"Returns {' or '.join(links)}.\n"
    yield "## Python types\n"
    for name in srkd.__all__:
        if name in VALUES:
            yield f"### `srkd.{name}`\n"
            yield VALUES[name] + "\n"
        elif name not in functions:
            yield f"### srkd.{name}\n"
            yield from _class(public[name], names)
    yield "## Results\n"
    for kind in all_results:
        if kind in returned:
            yield f"### {names.of_class(kind)}\n"
            yield from _class(kind, names)
    yield "## Parts of results\n"
    yield ABOUT_PARTS
    for kind in sorted(all_results, key=names.of_class):
        if kind not in returned:
            yield f"### {names.of_class(kind)}\n"
            yield from _class(kind, names)


def _hints(name: str, function: Any) -> dict[str, Any]:
    """Return the types of a function's parameters and result; those of a verb's function are the verb's options."""
    command = _command(name) if name in VERBS else None
    hints = hints_of(function, "srkd.options.verbs")
    if isinstance(command, VerbCommand) and command.options is not None and function is not srkd.inspect:
        hints |= hints_of(command.options)
    return hints


def _link(kind: type, names: Names, types: list[type]) -> str:
    heading = f"srkd.{kind.__name__}" if kind in types else names.of_class(kind)
    anchor = heading.lower().replace(".", "")
    return f"[{heading}](#{anchor})"


def _function(name: str, function: Any) -> Iterator[str]:
    """Yield a function's docstring without the arguments, and its examples, which tests run."""
    text = inspect.cleandoc(function.__doc__ or "").partition("\nArgs:\n")[0]
    yield re.sub(r"\n{3,}", "\n\n", re.sub(r"^ *>>> .*$", "", text, flags=re.MULTILINE)).strip() + "\n"
    examples = re.findall(r"^ *>>> (.*)$", text, flags=re.MULTILINE)
    if examples:
        yield "```python\n" + "\n".join(examples) + "\n```\n"
    if name in VERBS:
        yield f"The keywords are the options of [srkd {name}](#srkd-{name}).\n"


def _class(kind: type, names: Names) -> Iterator[str]:
    yield own_docstring(kind) + "\n"
    bases = [base for base in kind.__bases__ if base.__name__ in srkd.__all__]
    if bases:
        yield f"It is a subclass of {' and '.join(_link(base, names, bases) for base in bases)}.\n"
    rows = [(f"`{row.name}`", f"`{row.type}`", row.text) for row in members(kind, names)]
    if rows:
        yield table(("field" if dataclasses.is_dataclass(kind) else "member", "type", "meaning"), rows)


def _verb(name: str, command: click.Command) -> Iterator[str]:
    context = click.Context(command, info_name=f"srkd {name}")
    yield _text(command.help)
    yield f"```\n{command.get_usage(context).removeprefix('Usage: ')}\n```\n"
    if name in srkd.__all__:
        yield f"In Python: [srkd.{name}](#srkd{name}).\n"
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
        yield table(("option", *(["Python"] if has_function else []), "meaning"), rows)


COMMON = ("as_json", "verbose", "quiet")


def _common_options() -> str:
    command = cli.get_command(click.Context(cli), next(iter(VERBS)))
    assert command is not None
    records = [p.get_help_record(click.Context(command)) for p in command.params if p.name in COMMON]
    return "Every verb has these options.\n\n" + table(
        ("option", "meaning"), [(f"`{record[0]}`", record[1]) for record in records if record is not None]
    )


def _text(docstring: str | None) -> str:
    return inspect.cleandoc(docstring or "") + "\n"


if __name__ == "__main__":
    PAGE.write_text(write(), encoding="utf-8")
