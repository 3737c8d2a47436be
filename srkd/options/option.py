"""What an option is: one field of a frozen class, from which everything else follows.

    @options
    class UpscaleOptions(Options):
        tile: Annotated[int | None, Field(ge=0), Option(unset="by memory")] = None
        'LR pixels a side; 0: never.'

docs/design/house.md, "How an option travels", says what follows from it. Options that several verbs share, or that are
replaced together, form a `Group`; flags, keywords and JSON stay flat, so that every name is unique.
"""

from __future__ import annotations

import dataclasses
import inspect
import numbers
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin

from pydantic import (
    ConfigDict,
    GetCoreSchemaHandler,
    ModelWrapValidatorHandler,
    SkipValidation,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic.dataclasses import dataclass as pydantic_dataclass
from pydantic.fields import FieldInfo
from pydantic_core import ArgsKwargs, PydanticUndefined, core_schema
from typing_extensions import Self, dataclass_transform

from compressor.base.context import Note, Progress
from compressor.base.errors import SrkdError, UsageError
from srkd.terminal.console import json_value


@dataclass(frozen=True)
class Option:
    """The properties of an option beyond its field's name, type, limits, default and help."""

    help: str = ""
    """Help that is computed, or shared by several fields, in place of the string under the field."""
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
    rare: bool = False
    """True for an option of which the help of the verb shows the flag alone."""


@dataclass(frozen=True)
class Reader:
    """How a value that its type does not describe is read: from a word of the command line, or from Python."""

    metavar: str
    read: Callable[[Any], Any]
    show: Callable[[Any], str] = str
    """The default as a user would write it."""
    is_multiple: bool = False
    """Whether each of several values is a word of its own; `read` then takes the tuple of them."""
    names: tuple[str, ...] = ()
    """The possible words, for completion."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        def check(value: Any) -> Any:
            try:
                return None if value is None else self.read(value)
            except UsageError as error:
                raise ValueError(str(error)) from error

        return core_schema.no_info_before_validator_function(check, handler(source))


OptionsT = TypeVar("OptionsT", bound="Options")
ClassT = TypeVar("ClassT", bound=type)
T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
def options(cls: ClassT) -> ClassT:
    """Make a class of options or a group of it."""
    config = ConfigDict(strict=True, extra="forbid", arbitrary_types_allowed=True, use_attribute_docstrings=True)
    made: Any = pydantic_dataclass(frozen=True, config=config)(cls)
    return made  # type: ignore[no-any-return]


@options
class Group:
    """Options that are replaced together; the help of a verb shows them in a section of their own.

    A wrong value raises a `UsageError` with its flag.
    """

    @classmethod
    def of(cls, **keywords: Any) -> Self:
        """The options by their keywords, as the Python function takes them; each goes to its group."""
        values = _by_group(cls, keywords)
        return cls(**values | {name: kind.of(**values[name]) for name, kind in groups_of(cls).items()})

    @classmethod
    def of_words(cls, words: Mapping[str, Any]) -> Self:
        """The same from words of a command line, where "3" is a number."""
        values = _by_group(cls, words)
        values |= {name: kind.of_words(values[name]) for name, kind in groups_of(cls).items()}
        return TypeAdapter(cls).validate_python(ArgsKwargs((), values), strict=False)

    @model_validator(mode="wrap")
    @classmethod
    def _check(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if not isinstance(values, ArgsKwargs):
            return handler(values)
        positional = (field.name for field in dataclasses.fields(cls) if not field.kw_only)
        given = {**dict(zip(positional, values.args, strict=False)), **(values.kwargs or {})}
        try:
            # An integer of NumPy is an int.
            plain = {
                name: int(value) if not isinstance(value, int) and isinstance(value, numbers.Integral) else value
                for name, value in given.items()
            }
            return handler(ArgsKwargs((), plain))
        except ValidationError as error:
            raise _usage_error(cls, error) from None

    def to_json(self) -> dict[str, Any]:
        return {
            row.name: json_value(getattr(getattr(self, row.group) if row.group else self, row.name))
            for row in declarations(type(self))
            if row.option.in_json
        }


@options
class Options(Group):
    """The options of one verb, and the callbacks of its Python function."""

    _: dataclasses.KW_ONLY
    progress: SkipValidation[Progress | Literal[False] | None] = None
    """Called as progress(title, done, total). None: bars in a terminal or a notebook; False: none at all."""
    announce: SkipValidation[Note | None] = None
    """Receives one line for a person. None: printed where bars are."""


@dataclass(frozen=True)
class Declaration:
    """One option as it is declared, and the group that holds it ("" for none)."""

    name: str
    field: FieldInfo
    option: Option
    help: str
    holder: type[Group]
    group: str = ""

    @property
    def default(self) -> Any:
        """None also for an option that needs a value."""
        return None if self.is_required else self.field.default

    @property
    def is_required(self) -> bool:
        return self.field.default is PydanticUndefined

    @property
    def is_positional(self) -> bool:
        return not self.field.kw_only

    @property
    def flag(self) -> str:
        if self.option.argument:
            return self.option.metavar or self.name.upper()
        return self.option.flags[-1] if self.option.flags else "--" + self.name.replace("_", "-")

    @property
    def reader(self) -> Reader | None:
        return next((each for each in self.field.metadata if isinstance(each, Reader)), None)

    @property
    def is_multiple(self) -> bool:
        """Whether the option takes several values, each a separate word of the command line."""
        return self.option.flag_per_value is not None or (self.reader is not None and self.reader.is_multiple)

    @property
    def types(self) -> tuple[Any, ...]:
        kind = self.field.annotation
        return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)

    @property
    def choices(self) -> tuple[str, ...]:
        """The values of a Literal, or of one of some names that are known only at run time."""
        names = () if self.reader is None else self.reader.names
        return names or tuple(value for kind in self.types if get_origin(kind) is Literal for value in get_args(kind))

    @property
    def range(self) -> str:
        """The limits as the help shows them: "x>0, x<=1"."""
        signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
        limits = [(limit, key) for limit in self.field.metadata for key in signs if hasattr(limit, key)]
        return ", ".join(f"x{signs[key]}{getattr(limit, key):g}" for limit, key in limits)

    def read_word(self, word: str, where: str) -> Any:
        """The value from one word of a command line; an error begins with `where`."""
        try:
            return getattr(self.holder.of_words({self.name: word}), self.name)
        except UsageError as error:
            raise UsageError(f"{where}: {str(error).removeprefix(f'{self.flag}: ')}") from error


def fields_of(cls: type) -> dict[str, FieldInfo]:
    fields: dict[str, FieldInfo] = vars(cls)["__pydantic_fields__"]
    return fields


def groups_of(cls: type) -> dict[str, type[Group]]:
    kinds = {name: field.annotation for name, field in fields_of(cls).items()}
    return {name: kind for name, kind in kinds.items() if isinstance(kind, type) and issubclass(kind, Group)}


def declarations(cls: type[Group]) -> tuple[Declaration, ...]:
    """All options of a class in the order of its fields, those of its base classes last.

    The callbacks are those of `Options` itself.
    """
    fields, groups, rows = fields_of(cls), groups_of(cls), dict[str, Declaration]()
    for base in cls.__mro__ if cls is Options else (base for base in cls.__mro__ if base is not Options):
        for name in inspect.get_annotations(base):
            if name in groups:
                rows |= {row.name: replace(row, group=name) for row in declarations(groups[name])}
            elif name in fields and name not in rows:
                option = next((each for each in fields[name].metadata if isinstance(each, Option)), Option())
                text = option.help or fields_of(base)[name].description or ""
                rows[name] = Declaration(name, fields[name], option, " ".join(text.split()), cls)
    return tuple(sorted(rows.values(), key=lambda row: not row.is_positional))


def settings_of(kind: type[T], options: Group, **others: Any) -> T:
    """Settings of a library class: each that has the name of an option is that, and the `others` as they are given."""
    names = {field.name for field in dataclasses.fields(cast(Any, kind))}
    given = {row.name: getattr(options, row.name) for row in declarations(type(options)) if row.name in names}
    return kind(**{**given, **others})


def from_json(cls: type[OptionsT], values: Any, where: str, **others: Any) -> OptionsT:
    """Options from the output of `to_json`; `others` are keywords that it leaves out."""
    expected = {row.name for row in declarations(cls) if row.option.in_json}
    differing = sorted(expected ^ set(values)) if isinstance(values, Mapping) else ["options"]
    if differing:
        raise SrkdError(
            f"{where}: run.json was written by another version of srkd, and the run cannot be continued "
            f"({', '.join(differing)} differ); start a new run"
        )
    return cls.of(**values, **others)


def _by_group(cls: type[Group], keywords: Mapping[str, Any]) -> dict[str, Any]:
    group_by_name = {row.name: row.group for row in declarations(cls) if row.group}
    groups: dict[str, dict[str, Any]] = {name: {} for name in groups_of(cls)}
    own: dict[str, Any] = {}
    for name, value in keywords.items():
        (groups[group_by_name[name]] if name in group_by_name else own)[name] = value
    return groups | own


def _usage_error(cls: type[Group], error: ValidationError) -> Exception:
    """The first mistake as one line with flag and value; a keyword that is none as Python says it."""
    mistake: Any = error.errors(include_url=False)[0]
    name, value, kind = str(mistake["loc"][0]), mistake["input"], mistake["type"]
    row = next((row for row in declarations(cls) if row.name == name), None)
    if row is None or kind == "missing":
        return TypeError(f"{cls.__name__} {'lacks' if kind == 'missing' else 'has no'} argument {name!r}")
    if kind == "value_error":
        return UsageError(f"{row.flag}: {mistake['ctx']['error']}")
    return UsageError(f"{row.flag}: {value!r} {mistake['msg'].removeprefix('Input ')}")
