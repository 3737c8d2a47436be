"""Types of command-line values for several verbs: sizes, bytes, key=value pairs, devices, lists of names."""

from __future__ import annotations

import numbers
import os
import re
import reprlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import click
from click.shell_completion import CompletionItem
from pydantic import GetCoreSchemaHandler, PlainValidator

from compressor.base.cache_folder import format_exact_bytes, parse_bytes
from compressor.base.errors import UsageError, parse_int
from compressor.base.files import require_writable_folder
from compressor.runtimes.table import device_patterns

T = TypeVar("T")


def require_png(path: Path, option: str) -> None:
    """Refuse another kind of file, and a folder that cannot be written, before the work starts."""
    if path.suffix.lower() != ".png":
        raise UsageError(f"{option} {path}: the picture is a PNG file, whose name ends in .png")
    if path.is_dir():
        raise UsageError(f"{option} {path} is a folder: name a file in it that ends in .png")
    require_writable_folder(path.parent, option)


def require_html(path: Path, option: str) -> None:
    """Refuse another kind of file, and a folder that is missing or cannot be written, before the work starts."""
    if path.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"{option} {path}: the page is an HTML file, whose name ends in .html")
    if not path.parent.is_dir():
        raise UsageError(f"{option} {path}: its folder {path.parent} does not exist: make it, or choose another")
    require_writable_folder(path.parent, option)


class ValueType(click.ParamType[Any]):
    """The type of an option whose Python type does not tell how text is read. It checks values from Python, too."""

    is_of_one_item = False
    """True if each item of a sequence is a word of its own; False if one word holds all."""

    def read(self, value: object) -> Any:
        """The value that the option keeps; a wrong one raises `UsageError`."""
        raise NotImplementedError

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return self.read(value)
        except UsageError as error:
            self.fail(str(error), param, ctx)

    def _check(self, value: Any) -> Any:
        try:
            if self.is_of_one_item and isinstance(value, tuple):
                return tuple(self.read(item) for item in value)
            return None if value is None else self.read(value)
        except UsageError as error:
            raise ValueError(str(error)) from error

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> Any:
        return PlainValidator(self._check).__get_pydantic_core_schema__(source, handler)


class Parsed(ValueType, Generic[T]):
    """A type from three functions: `parse` reads text, `show` writes it, `from_python` takes other values.

    Without the third, other values pass unchanged.
    """

    def __init__(
        self,
        name: str,
        parse: Callable[[str], T],
        show: Callable[[T], str] = str,
        from_python: Callable[[object], T] | None = None,
    ) -> None:
        self.name, self.parse, self.show, self.from_python = name, parse, show, from_python

    def read(self, value: object) -> Any:
        if isinstance(value, str):
            return self.parse(value)
        if isinstance(value, list):
            value = tuple(value)
        return value if self.from_python is None else self.from_python(value)


class OneOf(ValueType):
    """One of some names that are known only at run time."""

    def __init__(self, *names: str) -> None:
        self.names, self.name = names, "choice"

    def read(self, value: object) -> Any:
        if value not in self.names:
            raise UsageError(f"{value!r} is not one of {', '.join(map(repr, self.names))}")
        return value


class Settings(ValueType):
    """Words KEY=VALUE that form a mapping."""

    name, is_of_one_item = "key=value", True

    def read(self, value: object) -> Any:
        if isinstance(value, str):
            return parse_setting(value)
        return value

    def _check(self, value: Any) -> Any:
        try:
            return None if value is None else dict(value)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{value!r} is not a mapping of names to values") from error


class PathOr(ValueType):
    """The type of a path; from Python also of an object with one of the `attributes`."""

    name, is_of_one_item = "path", True

    def __init__(self, what: str, *attributes: str) -> None:
        self.what, self.attributes = what, attributes

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return Path(value)

    def read(self, value: object) -> Any:
        if not isinstance(value, (str, os.PathLike)) and not any(hasattr(value, name) for name in self.attributes):
            raise UsageError(f"{reprlib.repr(value)} is not {self.what}")
        return value

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return click.Path().shell_complete(ctx, param, incomplete)


def format_size(width_height: tuple[int, int]) -> str:
    """Return width and height as `WxH`."""
    return f"{width_height[0]}x{width_height[1]}"


def parse_size(text: str) -> tuple[int, int]:
    """Read `WxH` in pixels."""
    match = re.fullmatch(r"([1-9][0-9]{0,4})[xX×]([1-9][0-9]{0,4})", text.strip())
    if not match:
        raise UsageError(f"{text!r} is not a size: give width x height in pixels, each 99999 at most, such as 320x180")
    return int(match[1]), int(match[2])


def read_size(value: object) -> tuple[int, int]:
    """Read `"WxH"`, or a width and a height."""
    if isinstance(value, str):
        return parse_size(value)
    if isinstance(value, Sequence) and len(value) == 2 and all(isinstance(side, numbers.Integral) for side in value):
        return parse_size(f"{value[0]}x{value[1]}")
    raise UsageError(f"{reprlib.repr(value)} is not a size: give (320, 180), width and height in pixels, or '320x180'")


def parse_sizes(text: str) -> tuple[tuple[int, int], ...]:
    """Read `WxH[,WxH...]`."""
    return tuple(parse_size(part) for part in text.split(","))


def read_sizes(value: object) -> tuple[tuple[int, int], ...]:
    """Read one size or several, each in a form of `read_size`."""
    if not isinstance(value, Sequence) or (value and isinstance(value[0], numbers.Integral)):
        return (read_size(value),)
    return tuple(read_size(part) for part in value)


MOST_BATCH = 10**6


def parse_counts(text: str) -> tuple[int, ...]:
    """Read `N[,N...]`, integers of at least 1, without duplicates."""
    counts = []
    for part in text.split(","):
        if not re.fullmatch(r"[0-9]{1,7}", part.strip()) or not 1 <= int(part) <= MOST_BATCH:
            raise UsageError(f"{text!r} is not a count, or several: give whole numbers from 1 on, such as 1,4")
        counts.append(int(part))
    return tuple(dict.fromkeys(counts))


def read_counts(value: object) -> tuple[int, ...]:
    """Read one integer or several, of at least 1."""
    values = value if isinstance(value, Sequence) else [value]
    if any(not isinstance(each, numbers.Integral) or isinstance(each, bool) for each in values) or not values:
        raise UsageError(f"{reprlib.repr(value)} is not a count, or several: give whole numbers such as (1, 4)")
    return parse_counts(",".join(str(each) for each in values))


def parse_setting(text: str) -> tuple[str, object]:
    """Read `key=value`; the value becomes a number, a bool or text."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UsageError(f"{text!r} is not a setting: write key=value, such as res_scale=0.1")
    return key.strip(), parse_scalar(value.strip())


def parse_scalar(text: str) -> object:
    """Return `text` as a bool, an int or a float if it is one, else unchanged."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for read in (parse_int, float):
        try:
            return read(text)
        except ValueError:
            continue
    return text


def parse_device(text: str) -> str:
    """Check the form of a device name such as `cuda:1`, not whether the device exists."""
    name, colon, part = text.partition(":")
    devices = device_patterns()
    if name not in devices or (colon and not (devices[name] and re.fullmatch(devices[name], part))):
        raise UsageError(f"{text!r} is not a device: give {', '.join(devices)}, some with a number as in cuda:1")
    return text


SIZE = Parsed("WxH", parse_size, format_size, read_size)
SIZES = Parsed("WxH[,WxH]", parse_sizes, lambda sizes: ",".join(map(format_size, sizes)), read_sizes)
COUNTS = Parsed("N[,N]", parse_counts, lambda counts: ",".join(map(str, counts)), read_counts)
BYTES = Parsed("SIZE", parse_bytes, format_exact_bytes)
SETTING = Settings()
DEVICE = Parsed("device", parse_device)
MODEL = PathOr("a model: give a path, a run folder or what srkd.load returned", "descriptor")
PICTURE = PathOr("a picture: give a path, a PIL image, a NumPy array or a tensor", "getbands", "shape")


def names_of(*choices: str) -> Parsed[tuple[str, ...]]:
    """Return the type of a list `a,b` of `choices`; duplicates are removed."""

    def read(values: object) -> tuple[str, ...]:
        if not isinstance(values, Sequence):
            raise UsageError(f"{reprlib.repr(values)} is not a list of names: {', '.join(choices)}")
        names = tuple(dict.fromkeys(values))
        for name in names:
            if name not in choices:
                raise UsageError(f"{name!r} is not one of {', '.join(choices)}")
        return names

    def parse(text: str) -> tuple[str, ...]:
        return read([part.strip() for part in text.split(",")])

    return Parsed("name[,name]", parse, ",".join, read)
