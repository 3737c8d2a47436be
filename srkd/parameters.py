"""Values of the command line that several verbs take: sizes, bytes, key=value pairs, devices, lists of names."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click

from compressor.base.cache_folder import parse_bytes
from compressor.base.errors import UsageError, parse_int
from compressor.runtimes.table import device_patterns

T = TypeVar("T")


class Parsed(click.ParamType[T]):
    """A click type made of a function that reads text, and one that writes it; values that are no text pass."""

    def __init__(self, name: str, parse: Callable[[str], T], show: Callable[[T], str] = str) -> None:
        self.name = name
        self.parse = parse
        self.show = show

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> T:
        if not isinstance(value, str):
            return value  # type: ignore[return-value]
        try:
            return self.parse(value)
        except UsageError as error:
            self.fail(str(error), param, ctx)


def format_size(width_height: tuple[int, int]) -> str:
    """Return width and height as `WxH`."""
    return f"{width_height[0]}x{width_height[1]}"


def parse_size(text: str) -> tuple[int, int]:
    """Read `WxH` in pixels."""
    match = re.fullmatch(r"([1-9][0-9]{0,4})[xX×]([1-9][0-9]{0,4})", text.strip())
    if not match:
        raise UsageError(f"{text!r} is not a size: give width x height in pixels, such as 320x180")
    return int(match[1]), int(match[2])


def parse_sizes(text: str) -> tuple[tuple[int, int], ...]:
    """Read `WxH[,WxH...]`."""
    return tuple(parse_size(part) for part in text.split(","))


def format_bytes(size: int) -> str:
    """Return a number of bytes in the largest unit that divides it, such as `20GB`."""
    units = {"GB": 10**9, "MB": 10**6, "KB": 10**3}
    return next((f"{size // bytes}{unit}" for unit, bytes in units.items() if size and size % bytes == 0), str(size))


def parse_setting(text: str) -> tuple[str, object]:
    """Read `key=value`; the value becomes a number, a bool or text."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UsageError(f"{text!r} is not a setting: write key=value, such as res_scale=0.1")
    return key.strip(), parse_scalar(value.strip())


def parse_scalar(text: str) -> object:
    """Return `text` as a bool, an int or a float where it reads as one, else unchanged."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for read in (parse_int, float):
        try:
            return read(text)
        except ValueError:
            continue
    return text


def parse_device(text: str) -> str:
    """Check a device word such as `cuda:1`. Whether the device exists shows when it is used."""
    name, colon, part = text.partition(":")
    devices = device_patterns()
    if name not in devices or (colon and not (devices[name] and re.fullmatch(devices[name], part))):
        raise UsageError(f"{text!r} is not a device: give {', '.join(devices)}, some with a number as in cuda:1")
    return text


SIZE = Parsed("WxH", parse_size, format_size)
SIZES = Parsed("WxH[,WxH]", parse_sizes, lambda sizes: ",".join(map(format_size, sizes)))
BYTES = Parsed("SIZE", parse_bytes, format_bytes)
SETTING = Parsed("key=value", parse_setting)
DEVICE = Parsed("device", parse_device)
MODEL = click.Path(path_type=Path)
"""The type of a model that may be more than a file: from Python, networks and open runtimes pass."""


def names_of(*choices: str) -> Parsed[tuple[str, ...]]:
    """Return the type of a list `a,b` of `choices`, in which each counts once."""

    def parse(text: str) -> tuple[str, ...]:
        names = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
        for name in names:
            if name not in choices:
                raise UsageError(f"{name!r} is not one of {', '.join(choices)}")
        return names

    return Parsed("name[,name]", parse, ",".join)
