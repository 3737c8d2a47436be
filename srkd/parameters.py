"""The kinds of value that several verbs take: sizes, bytes, key=value pairs, devices."""

from __future__ import annotations

import re

import click

from compressor.base.cache_folder import bytes_of
from compressor.base.errors import UsageError


def size(width_height: tuple[int, int]) -> str:
    """Width and height as `WxH`."""
    return f"{width_height[0]}x{width_height[1]}"


class Size(click.ParamType[tuple[int, int]]):
    """`WxH` in pixels, as everywhere on the command line and in JSON."""

    name = "WxH"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        found = re.fullmatch(r"([1-9][0-9]{0,4})[xX×]([1-9][0-9]{0,4})", str(value).strip())
        if not found:
            self.fail(f"{value!r} is no size: width x height in pixels, such as 320x180", param, ctx)
        return int(found[1]), int(found[2])


class Sizes(click.ParamType[tuple[tuple[int, int], ...]]):
    """`WxH[,WxH...]`."""

    name = "WxH[,WxH]"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[tuple[int, int], ...]:
        return tuple(Size().convert(part, param, ctx) for part in str(value).split(","))


class Bytes(click.ParamType[int]):
    """`500MB`, `8GB` or a plain number of bytes."""

    name = "SIZE"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return bytes_of(str(value))
        except UsageError as error:
            self.fail(str(error), param, ctx)


class Setting(click.ParamType[tuple[str, object]]):
    """`key=value`; the value is read as a number, true/false or text."""

    name = "key=value"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, object]:
        key, equals, text = str(value).partition("=")
        if not equals or not key.strip():
            self.fail(f"{value!r} is no setting: write key=value, such as res_scale=0.1", param, ctx)
        return key.strip(), scalar(text.strip())


def scalar(text: str) -> object:
    """A written value as the plainest type that reads it."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


class Device(click.ParamType[str]):
    """`cpu`, `cuda`, `cuda:1` or `mps`, for ONNX files also `tensorrt`, `openvino` or `openvino:GPU`; whether it exists
    is found out when it is used."""

    name = "device"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value)
        if not re.fullmatch(r"cpu|(cuda|tensorrt)(:\d+)?|mps|openvino(:(CPU|GPU|NPU)(\.\d+)?)?", text):
            self.fail(f"{text!r} is no device: cpu, cuda, cuda:N, mps, tensorrt or openvino", param, ctx)
        return text


class Names(click.ParamType[tuple[str, ...]]):
    """`a,b`: some of the names given, each once."""

    name = "name[,name]"

    def __init__(self, *known: str) -> None:
        self.known = known

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        asked = tuple(dict.fromkeys(part.strip() for part in str(value).split(",")))
        for part in asked:
            if part not in self.known:
                self.fail(f"{part!r} is none of {', '.join(self.known)}", param, ctx)
        return asked
