"""Declaration of options: each is one field of a frozen dataclass, from which everything else is generated.

    @dataclass(frozen=True, kw_only=True)
    class UpscaleOptions(Options):
        tile: Annotated[int | None, Option("LR pixels a side; none: by memory, 0: never.", minimum=0)] = None

Such a class gives the options of the command line (`command_line_options`), the keywords, signature and help of the
Python function (`public`), the check of every value, and the object that run.json keeps (`to_json`, `from_json`).
A field without `Option` is not on the command line.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import numbers
import os
import textwrap
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

import click

from compressor.base.context import Context, Note, Progress
from compressor.base.errors import SrkdError, UsageError, describe_os_error
from srkd.terminal.console import context_for_python, json_value


@dataclass(frozen=True)
class Option:
    """The properties of an option beyond its field's name, type and default."""

    help: str
    flags: tuple[str, ...] = ()
    """Flags such as ("-o", "--out"); empty: the field's name with dashes."""
    metavar: str | None = None
    minimum: float | None = None
    maximum: float | None = None
    above_minimum: bool = False
    """True if the minimum itself is not allowed."""
    type: click.ParamType[Any] | None = None
    """Click type of the value, if the field's type is not enough. For a sequence, one word then holds all values."""
    argument: bool = False
    """True for a positional argument of the command line."""
    flag_per_value: Mapping[str, str] | None = None
    """Help of each value's flag, for a field that is the tuple of the chosen values."""
    in_json: bool = True
    unset: str = ""
    """Meaning of None, which the help shows as the default: `[default: the embedded photos]`."""
    group: str = ""
    """The option's section in the help."""
    aliases: tuple[str, ...] = ()
    """Further flags, and keywords of the Python function, that are not in the help."""
    by_set: bool = False
    """True for a rare option: the help lists it only under `--set NAME=VALUE`. Its flag works, too."""

    @property
    def full_help(self) -> str:
        """Return the help with the meaning of None, for places that do not show defaults."""
        return f"{self.help} None: {self.unset}." if self.unset else self.help


class VerbOption(click.Option):
    """A click option with the fields of `Option` that click lacks."""

    def __init__(self, *args: Any, group: str = "", unset: str = "", aliases: Sequence[str] = (), **rest: Any) -> None:
        super().__init__(*args, **rest)
        self.group, self.unset, self.aliases = group, unset, tuple(aliases)

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Return the line of the help, without older names of the option."""
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


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of one verb. A wrong value raises a `UsageError` with its flag, from Python and the command line."""

    progress: Progress | Literal[False] | None = None
    announce: Note | None = None

    def __post_init__(self) -> None:
        for declaration in declarations(type(self)):
            value = declaration.check(getattr(self, declaration.name))
            object.__setattr__(self, declaration.name, value)


P = ParamSpec("P")
R = TypeVar("R")
OptionsT = TypeVar("OptionsT", bound=Options)


CALLBACKS = {
    "progress": "Called as progress(title, done, total). None: bars in a terminal or a notebook; False: none at all.",
    "announce": "Receives one line for a person. None: printed where bars are.",
}
"""The further keywords of every public function, with their help."""

VALUE_TYPES: tuple[tuple[type, tuple[type, ...], str], ...] = (
    (click.types.BoolParamType, (bool,), "True or False"),
    (click.types.IntParamType, (numbers.Integral,), "an integer"),
    (click.types.FloatParamType, (numbers.Real,), "a number"),
    (click.Path, (str, os.PathLike), "a path"),
    (click.ParamType, (str,), "text"),
)
"""The Python types that each click type takes, with their names in error messages."""


@dataclass(frozen=True)
class Declaration:
    """One option: name, type without `Annotated`, default (`dataclasses.MISSING`: none) and `Option`."""

    name: str
    annotation: Any
    default: Any
    option: Option

    @property
    def flag(self) -> str:
        """Return the option's name in error messages."""
        if self.option.argument:
            return self.option.metavar or self.name.upper()
        return self.option.flags[-1] if self.option.flags else "--" + self.name.replace("_", "-")

    @functools.cached_property
    def alternatives(self) -> tuple[Any, ...]:
        return _alternatives(self.annotation)

    @property
    def is_mapping(self) -> bool:
        return any(_is_generic(kind, Mapping) for kind in self.alternatives)

    @property
    def is_multiple(self) -> bool:
        """Return whether the option takes several values, each a separate word of the command line."""
        is_sequence = any(_is_generic(kind, Sequence) for kind in self.alternatives)
        return self.is_mapping or (is_sequence and (self.option.type is None or self.option.argument))

    @functools.cached_property
    def value_type(self) -> click.ParamType[Any]:
        """Return the click type of one word."""
        option = self.option
        if option.type is not None:
            return option.type
        kinds = self.alternatives
        if self.is_multiple:
            items = [
                item for kind in kinds if _is_generic(kind, Sequence) for item in get_args(kind) if item is not ...
            ]
            kinds = tuple(kind for item in items for kind in _alternatives(item))
        if bool in kinds:
            return click.BOOL
        if Path in kinds:
            return click.Path(path_type=Path)
        choices = [value for kind in kinds if get_origin(kind) is Literal for value in get_args(kind)]
        if choices:
            return click.Choice(choices)
        has_range = (option.minimum, option.maximum) != (None, None)
        if int in kinds:
            low, high = (None if bound is None else int(bound) for bound in (option.minimum, option.maximum))
            return click.IntRange(low, high, option.above_minimum) if has_range else click.INT
        if float in kinds:
            return click.FloatRange(option.minimum, option.maximum, option.above_minimum) if has_range else click.FLOAT
        return click.STRING

    def check(self, value: Any) -> Any:
        """Return the value as the command line would read it; refuse a wrong one, naming flag and value."""
        if self._stays(value):
            return value
        if self.is_mapping:
            try:
                return dict(value)
            except (TypeError, ValueError) as error:
                raise UsageError(f"{self.flag}: {value!r} is not a mapping of names to values") from error
        if self.is_multiple:
            is_alone = isinstance(value, str) or not isinstance(value, Sequence)
            return tuple(self._check_one(item) for item in ([value] if is_alone else value))
        # run.json has lists for options whose values are one word.
        return self._check_one(tuple(value) if isinstance(value, list) else value)

    def _stays(self, value: object) -> bool:
        """Return whether a value is the default, or None where None is allowed."""
        return value is self.default or (value is None and type(None) in self.alternatives)

    def _check_one(self, value: Any) -> Any:
        kind = self.value_type
        if self.option.type is None:
            expected, name = next((types, name) for base, types, name in VALUE_TYPES if isinstance(kind, base))
            if not isinstance(value, expected) or (isinstance(value, bool) and kind is not click.BOOL):
                raise UsageError(f"{self.flag}: {value!r} is not {name}")
        if isinstance(value, (str, os.PathLike)) and isinstance(kind, click.Path):
            return value
        try:
            converted = kind.convert(value, None, None)
        except click.BadParameter as error:
            raise UsageError(f"{self.flag}: {error.message.rstrip('.')}") from error
        if isinstance(converted, float) and math.isnan(converted):  # no range excludes it
            raise UsageError(f"{self.flag}: {value!r} is not a number")
        return converted

    def parameters(self) -> list[click.Parameter]:
        """Return the click parameters of the option: one, or its flags."""
        option, is_required = self.option, self.default is dataclasses.MISSING
        if option.argument:
            count, kind = -1 if self.is_multiple else 1, self.value_type
            return [click.Argument([self.name], type=kind, nargs=count, required=is_required, metavar=option.metavar)]
        if option.flag_per_value is not None:
            return [
                click.Option([f"--{value}", self.name], flag_value=value, multiple=True, help=text)
                for value, text in option.flag_per_value.items()
            ]
        words = [*(option.flags or (self.flag,)), *option.aliases, self.name]
        ours: dict[str, Any] = {
            "group": option.group,
            "unset": option.unset,
            "aliases": option.aliases,
            "hidden": option.by_set,
        }
        if self.value_type is click.BOOL:
            if self.default is True:
                words[0] = f"{words[0]}/--no-{words[0].removeprefix('--')}"
            return [VerbOption(words, is_flag=True, default=self.default, help=option.help, **ours)]
        # The help shows the default as a user would write it.
        show: Callable[[Any], str] = getattr(option.type, "show", str)
        has_text = self.default not in (None, dataclasses.MISSING) and not self.is_multiple
        return [
            VerbOption(
                words,
                type=self.value_type,
                multiple=self.is_multiple,
                required=is_required,
                metavar=option.metavar or self.number_metavar,
                default=show(self.default) if has_text else None,
                show_default=True,
                help=option.help,
                **ours,
            )
        ]

    @property
    def number_metavar(self) -> str | None:
        """Return a short metavar for numbers, for which click writes INTEGER RANGE; None for other types."""
        kind = self.value_type
        return (
            "N"
            if isinstance(kind, click.types.IntParamType)
            else "X"
            if isinstance(kind, click.types.FloatParamType)
            else None
        )


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    is_union = get_origin(annotation) in (Union, types.UnionType)
    return get_args(annotation) if is_union else (annotation,)


def _is_generic(kind: Any, base: type) -> bool:
    origin = get_origin(kind)
    return isinstance(origin, type) and issubclass(origin, base)


def declarations(options: type[Options]) -> tuple[Declaration, ...]:
    """Return the declarations of a class in the order of its fields, those of its base classes last."""
    hints = _field_types(options)
    levels = [inspect.get_annotations(base) for base in options.__mro__]
    fields = dataclasses.fields(options)
    rows = []
    for field in sorted(fields, key=lambda field: next(i for i, names in enumerate(levels) if field.name in names)):
        if get_origin(hints[field.name]) is not Annotated:
            continue
        annotation, *extras = get_args(hints[field.name])
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        rows.append(Declaration(field.name, annotation, default, next(e for e in extras if isinstance(e, Option))))
    return tuple(rows)


def _field_types(options: type[Options], *, with_options: bool = True) -> dict[str, Any]:
    """Return the type of each field. In Python 3.10 dataclasses.KW_ONLY between fields is not a type."""
    return get_type_hints(options, localns={"KW_ONLY": object}, include_extras=with_options)


def take_settings(options: Options, settings: Sequence[str]) -> tuple[str, ...]:
    """Assign the rare options among `--set NAME=VALUE` to their fields, and return the other settings."""
    rare = {row.name: row for row in declarations(type(options)) if row.option.by_set}
    others = []
    for setting in settings:
        name, equals, text = setting.partition("=")
        row = rare.get(name.strip().replace("-", "_"))
        if row is None or not equals:
            others.append(setting)
            continue
        try:
            value = row.value_type.convert(text.strip(), None, None)
        except click.BadParameter as error:
            raise UsageError(f"--set {setting}: {error.message.rstrip('.')}") from error
        before = getattr(options, row.name)
        if before not in (row.default, value):
            raise UsageError(f"--set {setting} contradicts {row.flag} {before}: give one of them")
        object.__setattr__(options, row.name, value)
    return tuple(others)


def command_line_options(options: type[Options]) -> list[click.Parameter]:
    """Return the click parameters of all options of a class."""
    return [parameter for declaration in declarations(options) for parameter in declaration.parameters()]


def from_command_line(options: type[OptionsT], values: dict[str, Any]) -> OptionsT:
    """Remove the fields of `options` from a command's values and return the options; absent ones keep defaults."""
    context = click.get_current_context()
    default = click.core.ParameterSource.DEFAULT
    changed: dict[str, Any] = {}
    for declaration in declarations(options):
        value = values.pop(declaration.name)
        if context.get_parameter_source(declaration.name) is not default:
            changed[declaration.name] = value
    return options(**changed)


def public(options: Callable[P, OptionsT], run: Callable[[OptionsT, Context], R], name: str) -> Callable[P, R]:
    """Return the Python function of a verb: the fields of `options` are its keywords, and `run` does the work.

    Its docstring is that of `run` with a section that lists the arguments.
    """

    def function(*args: P.args, **kwargs: P.kwargs) -> R:
        for older in older_names.keys() & kwargs.keys():
            kwargs[older_names[older]] = kwargs.pop(older)
        values = options(*args, **kwargs)
        with context_for_python(values.progress, values.announce) as context:
            try:
                return run(values, context)
            except OSError as error:
                raise SrkdError(describe_os_error(error)) from error

    assert isinstance(options, type) and issubclass(options, Options)
    rows = declarations(options)
    older_names = {flag.lstrip("-").replace("-", "_"): row.name for row in rows for flag in row.option.aliases}
    hints, signature = _field_types(options, with_options=False), inspect.signature(options)
    texts = {row.name: row.option.full_help for row in rows}
    texts |= CALLBACKS
    parameters = [signature.parameters[name].replace(annotation=hints[name]) for name in texts]
    returned = get_type_hints(run, include_extras=True)["return"]
    vars(function)["__signature__"] = signature.replace(parameters=parameters, return_annotation=returned)
    function.__name__ = function.__qualname__ = name
    function.__module__ = run.__module__
    function.__annotations__ = {**{each.name: each.annotation for each in parameters}, "return": returned}
    lines = [
        textwrap.fill(f"{name}: {text}", 100, initial_indent=" " * 4, subsequent_indent=" " * 8)
        for name, text in texts.items()
    ]
    function.__doc__ = "\n".join([inspect.cleandoc(run.__doc__ or ""), "", "Args:", *lines])
    return function


def to_json(options: Options) -> dict[str, Any]:
    """Return the options in the form of run.json."""
    return {
        row.name: json_value(getattr(options, row.name)) for row in declarations(type(options)) if row.option.in_json
    }


def from_json(options: type[OptionsT], values: Any, where: str, **others: Any) -> OptionsT:
    """Return options from the output of `to_json`; `others` are the fields that it leaves out."""
    expected = {row.name for row in declarations(options) if row.option.in_json}
    if not isinstance(values, Mapping):
        differences = ["it has no options"]
    else:
        lists = {"it lacks": sorted(expected - set(values)), "unknown here": sorted(set(values) - expected)}
        differences = [f"{title}: {', '.join(names)}" for title, names in lists.items() if names]
    if differences:
        raise SrkdError(
            f"{where}: run.json was written by another version of srkd, and the run cannot be continued "
            f"({'; '.join(differences)}); start a new run"
        )
    return options(**values, **others)
