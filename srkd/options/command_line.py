"""The command line of a class of options: click parameters, and the options that a command was given."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import click

from srkd.options.option import Declaration, OptionsT, click_type, declarations


class VerbOption(click.Option):
    """A click option with the properties of `Option` that click lacks."""

    def __init__(self, *args: Any, group: str = "", unset: str = "", aliases: Sequence[str] = (), **rest: Any) -> None:
        super().__init__(*args, **rest)
        self.group, self.unset, self.aliases = group, unset, tuple(aliases)

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """The line of the help, without older names of the option."""
        all_flags, self.opts = self.opts, [flag for flag in self.opts if flag not in self.aliases]
        try:
            return super().get_help_record(ctx)
        finally:
            self.opts = all_flags

    def get_help_extra(self, ctx: click.Context) -> Any:
        extra = super().get_help_extra(ctx)
        if self.unset:
            extra.setdefault("default", self.unset)
        return extra


def parameters_of(row: Declaration) -> list[click.Parameter]:
    """The click parameters of an option: one, or the flags of its values."""
    option, kind, is_required = row.option, click_type(row), row.default is dataclasses.MISSING
    if option.argument:
        count = -1 if row.is_multiple else 1
        return [click.Argument([row.name], type=kind, nargs=count, required=is_required, metavar=option.metavar)]
    if option.flag_per_value is not None:
        return [
            click.Option([f"--{value}", row.name], flag_value=value, multiple=True, help=text)
            for value, text in option.flag_per_value.items()
        ]
    words = [*(option.flags or (row.flag,)), *option.aliases, row.name]
    ours: dict[str, Any] = {
        "group": row.group,
        "unset": option.unset,
        "aliases": option.aliases,
        "hidden": row.is_hidden,
    }
    if kind is click.BOOL:
        if row.default is True:
            words[0] = f"{words[0]}/--no-{words[0].removeprefix('--')}"
        return [VerbOption(words, is_flag=True, default=row.default, help=option.help, **ours)]
    # The help shows the default as a user would write it.
    show: Callable[[Any], str] = getattr(kind, "show", str)
    has_text = row.default not in (None, (), dataclasses.MISSING) and not row.is_multiple
    return [
        VerbOption(
            words,
            type=kind,
            multiple=row.is_multiple,
            required=is_required,
            metavar=option.metavar or _number_metavar(kind),
            default=show(row.default) if has_text else None,
            show_default=True,
            help=option.help,
            **ours,
        )
    ]


def _number_metavar(kind: click.ParamType[Any]) -> str | None:
    """A short metavar for numbers, for which click writes INTEGER RANGE."""
    is_whole, is_number = isinstance(kind, click.types.IntParamType), isinstance(kind, click.types.FloatParamType)
    return "N" if is_whole else "X" if is_number else None


def command_line_options(options: type) -> list[click.Parameter]:
    """The click parameters of all options of a class."""
    return [parameter for row in declarations(options) for parameter in parameters_of(row)]


def from_command_line(options: type[OptionsT], values: dict[str, Any]) -> OptionsT:
    """Take the values of `options` out of a command's values; options that were not given keep their defaults."""
    context = click.get_current_context()
    default = click.core.ParameterSource.DEFAULT
    given: dict[str, Any] = {}
    for row in declarations(options):
        value = values.pop(row.name)
        if context.get_parameter_source(row.name) is not default:
            given[row.name] = value
    return options.of(**given)
