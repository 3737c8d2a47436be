"""What an option is: one field of a frozen class, from which everything else follows.

    @options
    class UpscaleOptions(Options):
        tile: Annotated[int | None, Field(ge=0), Option("LR pixels a side; 0: never.", unset="by memory")] = None

Such a class is a pydantic dataclass: pydantic checks every value, in whatever way the object is made. From its fields
come the flags of the command line (`command_line`), the keywords, signature and help of the Python function
(`function`), and the entry `request` of run.json (`to_json`, `from_json`). A field without `Option` has none of these.

Options that several verbs share, or that are replaced together, form a `Group`. A class of options holds groups as
fields; flags, keywords and JSON stay flat, so that every name is unique:

    CompressOptions.of(width=0.5, steps=100).student.width
    replace(options, student=StudentOptions())
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import numbers
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import click
from pydantic import ConfigDict, SkipValidation, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass
from pydantic.fields import FieldInfo
from typing_extensions import Self, dataclass_transform

from compressor.base.context import Note, Progress
from compressor.base.errors import SrkdError, UsageError
from compressor.base.hub import is_address
from srkd.options.values import ValueType
from srkd.terminal.console import json_value

SETTINGS = "settings"
"""The option that also takes rare options, as `--set NAME=VALUE`."""


@dataclass(frozen=True)
class Option:
    """The properties of an option beyond its field's name, type, limits and default."""

    help: str
    flags: tuple[str, ...] = ()
    """Flags such as ("-o", "--out"); empty: the field's name with dashes."""
    metavar: str | None = None
    argument: bool = False
    """True for a positional argument of the command line."""
    flag_per_value: Mapping[str, str] | None = None
    """Help of each value's flag, for a field that is the tuple of the chosen values."""
    in_json: bool = True
    unset: str = ""
    """Meaning of None, which the help shows as the default: `[default: the embedded photos]`."""
    aliases: tuple[str, ...] = ()
    """Further flags, and keywords of the Python function, that are not in the help."""
    is_input: bool = False
    """True for the path of an input: it becomes absolute, so that a run continues from any folder."""
    rare: bool = False
    """True for an option that the help of a verb with --set lists only there, as `--set NAME=VALUE`."""


ClassT = TypeVar("ClassT", bound=type)
OptionsT = TypeVar("OptionsT", bound="Options")

CONFIG = ConfigDict(strict=True, arbitrary_types_allowed=True)


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
def options(cls: ClassT) -> ClassT:
    """Make a class of options or a group of it: a frozen pydantic dataclass with errors that name the flag."""
    made: Any = pydantic_dataclass(frozen=True, config=CONFIG)(cls)
    validate, signature = made.__init__, inspect.signature(made)

    @functools.wraps(validate)
    def init(self: Any, *args: Any, **keywords: Any) -> None:
        unknown = [name for name in keywords if name not in signature.parameters]
        if unknown:
            raise TypeError(f"{made.__name__} got an unexpected keyword argument {unknown[0]!r}")
        values = signature.bind(*args, **keywords).arguments
        try:
            validate(self, **{name: _plain(made, name, value) for name, value in values.items()})
        except ValidationError as error:
            raise _usage_error(made, error) from None

    made.__init__ = init
    result: ClassT = made
    return result


class Group:
    """Options that are replaced together; the help of a verb shows them in a section of their own."""


@options
class Options:
    """The options of one verb. A wrong value raises a `UsageError` with its flag, from Python and the command line."""

    _: dataclasses.KW_ONLY
    progress: SkipValidation[Progress | Literal[False] | None] = None
    announce: SkipValidation[Note | None] = None

    @classmethod
    def of(cls, *args: Any, **keywords: Any) -> Self:
        """The options by their keywords, as the Python function takes them; each goes to its group."""
        groups = dict(groups_of(cls))
        rows = {row.name: row for row in declarations(cls)}
        positional = [row.name for row in rows.values() if row.is_positional]
        if len(args) > len(positional):
            raise TypeError(f"{cls.__name__} takes at most {len(positional)} positional arguments, not {len(args)}")
        for name, value in zip(positional, args, strict=False):
            if name in keywords:
                raise TypeError(f"got multiple values for argument {name!r}")
            keywords[name] = value
        own = {field.name for field in dataclasses.fields(cls)} - set(groups)
        for name in keywords:
            if name not in rows and name not in own:
                raise TypeError(f"{cls.__name__} got an unexpected keyword argument {name!r}")
        values: dict[str, Any] = {name: {} for name in groups}
        for name, value in _with_rare_settings(rows, keywords).items():
            place = values[rows[name].group] if name in rows and rows[name].group else values
            place[name] = value
        values |= {name: kind(**values[name]) for name, kind in groups.items()}
        return cls(**values)


CALLBACKS = {
    "progress": "Called as progress(title, done, total). None: bars in a terminal or a notebook; False: none at all.",
    "announce": "Receives one line for a person. None: printed where bars are.",
}
"""The further keywords of every public function, with their help."""


@dataclass(frozen=True)
class Declaration:
    """One option as it is declared, and the group that holds it ("" for none)."""

    name: str
    annotation: Any
    """The type without `Annotated`."""
    default: Any
    """`dataclasses.MISSING` if a value is required."""
    option: Option
    limits: Mapping[str, float]
    """Some of ge, gt, le and lt."""
    value_type: ValueType | None
    """How text is read, if the type does not tell."""
    group: str = ""
    is_positional: bool = False
    is_hidden: bool = False
    """True for a rare option of a verb that takes it by --set."""

    @property
    def flag(self) -> str:
        """The option's name in error messages."""
        if self.option.argument:
            return self.option.metavar or self.name.upper()
        return self.option.flags[-1] if self.option.flags else "--" + self.name.replace("_", "-")

    @functools.cached_property
    def alternatives(self) -> tuple[Any, ...]:
        """The types of a union, or the one type."""
        return alternatives(self.annotation)

    @property
    def is_mapping(self) -> bool:
        return any(is_generic(kind, Mapping) for kind in self.alternatives)

    @property
    def is_multiple(self) -> bool:
        """Whether the option takes several values, each a separate word of the command line."""
        is_sequence = any(is_generic(kind, Sequence) for kind in self.alternatives)
        return self.is_mapping or (is_sequence and (self.value_type is None or self.value_type.is_of_one_item))

    @property
    def kinds(self) -> tuple[Any, ...]:
        """The types of one value, without those of a sequence of them."""
        if not self.is_multiple:
            return self.alternatives
        items = [item for kind in self.alternatives if is_generic(kind, Sequence) for item in get_args(kind)]
        return tuple(kind for item in items if item is not ... for kind in alternatives(item))

    @property
    def choices(self) -> tuple[str, ...]:
        """The values of a Literal."""
        return tuple(value for kind in self.kinds if get_origin(kind) is Literal for value in get_args(kind))

    @property
    def range(self) -> str:
        """The limits as the help shows them: "0<x<=1"."""
        low = [f"{self.limits[key]:g}{sign}" for key, sign in (("ge", "<="), ("gt", "<")) if key in self.limits]
        high = [f"{sign}{self.limits[key]:g}" for key, sign in (("le", "<="), ("lt", "<")) if key in self.limits]
        if low and not high:
            return f"x{'>=' if 'ge' in self.limits else '>'}{next(iter(self.limits.values())):g}"
        return "".join([*low, "x", *high])


def alternatives(annotation: Any) -> tuple[Any, ...]:
    """The types of a union, or the one type."""
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def is_generic(kind: Any, base: type) -> bool:
    """Whether a type is `base[...]` or of a class below it."""
    origin = get_origin(kind)
    return isinstance(origin, type) and issubclass(origin, base)


def click_type(row: Declaration) -> click.ParamType[Any]:
    """The click type of one word of an option."""
    if row.value_type is not None:
        names = getattr(row.value_type, "names", None)
        return row.value_type if names is None else click.Choice(names)
    kinds, limits = row.kinds, row.limits
    if bool in kinds:
        return click.BOOL
    if Path in kinds:
        return click.Path(path_type=Path)
    if row.choices:
        return click.Choice(row.choices)
    low, high = limits.get("ge", limits.get("gt")), limits.get("le", limits.get("lt"))
    if int in kinds:
        whole = [None if limit is None else int(limit) for limit in (low, high)]
        return click.IntRange(whole[0], whole[1], "gt" in limits, "lt" in limits) if limits else click.INT
    if float in kinds:
        return click.FloatRange(low, high, "gt" in limits, "lt" in limits) if limits else click.FLOAT
    return click.STRING


def groups_of(cls: type) -> tuple[tuple[str, type[Group]], ...]:
    """The groups among the fields of a class of options, by name."""
    hints = _hints(cls)
    kinds = ((field.name, hints[field.name]) for field in dataclasses.fields(cls))
    return tuple((name, kind) for name, kind in kinds if isinstance(kind, type) and issubclass(kind, Group))


_DECLARED: dict[type, tuple[Declaration, ...]] = {}


def declarations(cls: type) -> tuple[Declaration, ...]:
    """All options of a class in the order of its fields, those of its base classes last."""
    if cls not in _DECLARED:
        _DECLARED[cls] = _declarations(cls)
    return _DECLARED[cls]


def _declarations(cls: type) -> tuple[Declaration, ...]:
    groups, rows = dict(groups_of(cls)), []
    levels = [inspect.get_annotations(base) for base in cls.__mro__]
    fields = dataclasses.fields(cls)
    for field in sorted(fields, key=lambda field: next(i for i, names in enumerate(levels) if field.name in names)):
        if field.name in groups:
            rows += [replace(row, group=field.name) for row in declarations(groups[field.name])]
        elif (row := _declaration(cls, field)) is not None:
            rows.append(row)
    has_settings = any(row.name == SETTINGS for row in rows)
    rows.sort(key=lambda row: not row.is_positional)
    return tuple(replace(row, is_hidden=row.option.rare and has_settings) for row in rows)


def _declaration(cls: type, field: dataclasses.Field[Any]) -> Declaration | None:
    hint = _hints(cls)[field.name]
    if get_origin(hint) is not Annotated:
        return None
    annotation, *extras = get_args(hint)
    option = next((extra for extra in extras if isinstance(extra, Option)), None)
    if option is None:
        return None
    limits = {
        key: getattr(limit, key)
        for extra in extras
        if isinstance(extra, FieldInfo)
        for limit in extra.metadata
        for key in ("ge", "gt", "le", "lt")
        if hasattr(limit, key)
    }
    return Declaration(
        name=field.name,
        annotation=annotation,
        default=field.default,
        option=option,
        limits=limits,
        value_type=next((extra for extra in extras if isinstance(extra, ValueType)), None),
        is_positional=not field.kw_only,
    )


def _hints(cls: type) -> dict[str, Any]:
    """The type of each field. In Python 3.10 dataclasses.KW_ONLY between fields is not a type."""
    return get_type_hints(cls, localns={"KW_ONLY": object}, include_extras=True)


def _plain(cls: type, name: str, value: Any) -> Any:
    """A value as pydantic takes it: integers of NumPy as int, one text or path where several may be as a tuple."""
    if not isinstance(value, int) and isinstance(value, numbers.Integral):
        return int(value)
    for text in value if isinstance(value, (list, tuple)) else (value,):
        if isinstance(text, (str, os.PathLike)) and "\0" in os.fspath(text):
            raise UsageError(f"{name}: {os.fspath(text)!r} has a NUL character, which no path and no name has")
    row = next((row for row in declarations(cls) if row.name == name and not row.group), None)
    if row is not None and row.option.is_input and isinstance(value, (str, os.PathLike)) and not is_address(value):
        return Path(value).resolve()
    if row is None or not row.is_multiple or row.is_mapping:
        return value
    if isinstance(value, (str, os.PathLike)):
        return (value,)
    return tuple(value) if isinstance(value, Sequence) else value


def _usage_error(cls: type, error: ValidationError) -> UsageError:
    """The first mistake as one line with flag and value."""
    mistake = error.errors(include_url=False)[0]
    name, value, kind = str(mistake["loc"][0]), mistake["input"], mistake["type"]
    row = next(row for row in declarations(cls) if row.name == name)
    if kind == "value_error":
        return UsageError(f"{row.flag}: {mistake.get('ctx', {}).get('error')}")
    if kind in ("greater_than", "greater_than_equal", "less_than", "less_than_equal"):
        return UsageError(f"{row.flag}: {value!r} is not in the range {row.range}")
    if kind == "literal_error":
        return UsageError(f"{row.flag}: {value!r} is not one of {', '.join(map(repr, row.choices))}")
    return UsageError(f"{row.flag}: {value!r} is not {_kind(row)}")


def _kind(row: Declaration) -> str:
    """The kind of value that an option takes, for messages."""
    if row.is_mapping:
        return "a mapping of names to values"
    names = {bool: "True or False", int: "an integer", float: "a number", str: "text"}
    kinds = [kind for kind in row.kinds if kind is not type(None)]
    return (
        "a path" if Path in kinds else next((names[kind] for kind in kinds if kind in names), "a value that it takes")
    )


def _with_rare_settings(rows: Mapping[str, Declaration], keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Keywords in which rare options among `--set NAME=VALUE` have become keywords of their own."""
    values, others = dict(keywords), []
    settings = values.get(SETTINGS) or ()
    for setting in (settings,) if isinstance(settings, str) else settings:
        name, equals, text = str(setting).partition("=")
        row = rows.get(name.strip().replace("-", "_"))
        if row is None or not row.is_hidden or not equals:
            others.append(setting)
            continue
        value = read_word(row, text.strip(), f"--set {setting}")
        before = keywords.get(row.name, row.default)
        if before not in (row.default, value):
            raise UsageError(f"--set {setting} contradicts {row.flag} {before}: give one of them")
        values[row.name] = value
    return {**values, SETTINGS: tuple(others)} if settings else values


def read_word(row: Declaration, word: str, where: str) -> Any:
    """The value of an option from one word of a command line; an error begins with `where`."""
    try:
        return click_type(row).convert(word, None, None)
    except click.BadParameter as error:
        raise UsageError(f"{where}: {error.message.rstrip('.')}") from error


def to_json(options: Options) -> dict[str, Any]:
    """The options in the form of run.json: one flat object."""
    return {row.name: json_value(value) for row, value in values_of(options) if row.option.in_json}


def values_of(options: Options) -> Iterator[tuple[Declaration, Any]]:
    """Each declaration with its value."""
    for row in declarations(type(options)):
        yield row, getattr(getattr(options, row.group) if row.group else options, row.name)


def from_json(cls: type[OptionsT], values: Any, where: str, **others: Any) -> OptionsT:
    """Options from the output of `to_json`; `others` are keywords that it leaves out."""
    expected = {row.name for row in declarations(cls) if row.option.in_json}
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
    return cls.of(**values, **others)
