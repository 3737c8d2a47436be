"""The command line of a class of options: click parameters, and the options that a command was given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from compressor.base.errors import UsageError
from srkd.options.option import Declaration, OptionsT, declarations


class VerbOption(click.Option):
    """A click option in a section of the help; `shown` are its default and its range there."""

    def __init__(self, *args: Any, group: str = "", shown: dict[str, str] | None = None, **rest: Any) -> None:
        super().__init__(*args, **rest)
        self.group, self.shown = group, shown or {}

    def get_help_extra(self, ctx: click.Context) -> Any:
        return {**super().get_help_extra(ctx), **self.shown}


def parameters_of(row: Declaration) -> list[click.Parameter]:
    """The click parameters of an option: one, or the flags of its values. The words are read by `Group.of_words`."""
    option, reader = row.option, row.reader
    if option.flag_per_value is not None:
        return [
            click.Option([f"--{value}", row.name], flag_value=value, multiple=True, help=text)
            for value, text in option.flag_per_value.items()
        ]
    words: dict[str, Any] = {"type": click.STRING, "metavar": option.metavar or (reader and reader.metavar)}
    if row.choices:
        words["type"] = click.Choice(row.choices)
    elif Path in row.types:
        words["type"] = click.Path()
    elif words["metavar"] is None and {int, float} & {*row.types}:
        words["metavar"] = "N" if int in row.types else "X"
    if option.argument:
        count = -1 if row.is_multiple else 1
        return [click.Argument([row.name], nargs=count, required=row.is_required, **words)]
    flags = list(option.flags or (row.flag,))
    if bool in row.types:
        words = {"is_flag": True}
        flags[0] += f"/--no-{flags[0].removeprefix('--')}" if row.default else ""
    default = option.unset
    if not default and row.default not in (None, ()) and bool not in row.types:
        default = row.default if reader is None else reader.show(row.default)
    shown = {name: str(text) for name, text in (("default", default), ("range", row.range)) if text != ""}
    return [
        VerbOption(
            [*flags, row.name],
            multiple=not words.get("is_flag"),  # by itself click keeps the last word alone
            required=row.is_required,
            default=None,
            hidden=option.rare,
            help=row.help,
            group=row.group,
            shown=shown,
            **words,
        )
    ]


def from_command_line(options: type[OptionsT], values: dict[str, Any]) -> OptionsT:
    """Take the values of `options` out of a command's values; options that were not given keep their defaults."""
    words = {row.name: _one_or_all(row, values.pop(row.name)) for row in declarations(options)}
    return options.of_words({name: word for name, word in words.items() if word not in (None, ())})


def _one_or_all(row: Declaration, words: Any) -> Any:
    """The words of an option that takes several, lists as one list; of several paths none is left out in silence."""
    if row.is_multiple or not isinstance(words, tuple):
        return words
    if row.reader is not None and "[," in row.reader.metavar:
        return ",".join(words) or None
    if len(words) > 1 and Path in row.types:
        raise UsageError(f"{row.flag} is given {len(words)} times, {' and '.join(words)}: give it once")
    return words[-1] if words else None
