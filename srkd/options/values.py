"""Types of command-line values for several verbs: sizes, bytes, key=value pairs, devices, lists of names."""

from __future__ import annotations

import numbers
import os
import re
import reprlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import click
from click.shell_completion import CompletionItem
from pydantic import GetCoreSchemaHandler, PlainValidator

from compressor.base.cache_folder import format_exact_bytes, parse_bytes
from compressor.base.errors import UsageError, parse_int
from compressor.base.files import require_writable_folder
from compressor.base.hub import is_address, pull
from compressor.runtimes.table import device_patterns


def require_file(path: Path, option: str, what: str, *endings: str) -> None:
    """Refuse another kind of file, and a folder that cannot be written, before the work starts."""
    if path.suffix.lower() not in endings:
        raise UsageError(f"{option} {path}: {what}, whose name ends in {endings[0]}")
    if path.is_dir():
        raise UsageError(f"{option} {path} is a folder: name a file in it that ends in {endings[0]}")
    require_writable_folder(path.parent, option)


def require_png(path: Path, option: str) -> None:
    require_file(path, option, "the picture is a PNG file", ".png")


def require_html(path: Path, option: str) -> None:
    require_file(path, option, "the page is an HTML file", ".html", ".htm")
    if not path.parent.is_dir():
        raise UsageError(f"{option} {path}: its folder {path.parent} does not exist: make it, or choose another")


def output_file(out: Path | None, runs: Sequence[Path], name: str, require: Callable[[Path, str], None]) -> Path:
    """The file to write: `out`, checked by `require`, or `name` in the folder of the only run."""
    if out is not None:
        require(out, "--out")
        return out
    if len(runs) != 1:
        raise UsageError(f"{len(runs)} runs make one file: name it with --out FILE{Path(name).suffix}")
    return runs[0] / name


def run_folders(runs: object) -> list[Path]:
    """The run folders that are named; refuse none."""
    folders = [Path(run) for run in as_tuple(runs)]
    if not folders:
        raise UsageError("no run folder: name at least one")
    return folders


def as_tuple(values: object) -> tuple[Any, ...]:
    """One value or a sequence of values as a tuple. A string is one value."""
    return tuple(values) if isinstance(values, Sequence) and not isinstance(values, str) else (values,)


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

    def read_from_python(self, value: Any) -> Any:
        """As `read`, of all items if the option holds several."""
        if self.is_of_one_item and isinstance(value, tuple):
            return tuple(self.read(item) for item in value)
        return self.read(value)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> Any:
        takes_none = type(None) in get_args(source)

        def check(value: Any) -> Any:
            if value is None and takes_none:
                return None
            try:
                return self.read_from_python(value)
            except UsageError as error:
                raise ValueError(str(error)) from error

        return PlainValidator(check).__get_pydantic_core_schema__(source, handler)


class Parsed(ValueType):
    """A type from two functions: `read` takes text or a value from Python, `show` writes it as text."""

    def __init__(self, name: str, read: Callable[[Any], Any], show: Callable[[Any], str] = str) -> None:
        self.name, self.read_value, self.show = name, read, show

    def read(self, value: object) -> Any:
        return self.read_value(value)


class ListOf(ValueType):
    """A list `a,b` of values without duplicates; from Python one value, or a sequence of them."""

    def __init__(
        self,
        name: str,
        read_item: Callable[[Any], Any],
        show: Callable[[Any], str] = str,
        is_item: Callable[[object], bool] = lambda value: not isinstance(value, Sequence),
    ) -> None:
        self.name, self.read_item, self.show_item, self.is_item = name, read_item, show, is_item

    def read(self, value: Any) -> tuple[Any, ...]:
        if isinstance(value, str):
            value = [word.strip() for word in value.split(",")]
        return tuple(dict.fromkeys(map(self.read_item, (value,) if self.is_item(value) else value)))

    def show(self, values: Sequence[Any]) -> str:
        return ",".join(map(self.show_item, values))


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

    def read_from_python(self, value: Any) -> Any:
        try:
            return dict(value)
        except (TypeError, ValueError) as error:
            raise UsageError(f"{value!r} is not a mapping of names to values") from error


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


class ModelPath(PathOr):
    """The type of a model: also an address of the Hugging Face hub, whose files are fetched when it is read."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value if is_address(value) else super().convert(value, param, ctx)

    def read(self, value: object) -> Any:
        value = super().read(value)
        return pull(value) if isinstance(value, str) and is_address(value) else value


class NamedFolder(ValueType):
    """Words [NAME=]DIR; the path becomes absolute, so that a run continues from any folder."""

    name, is_of_one_item = "[NAME=]DIR", True

    def read(self, value: object) -> str:
        name, path = split_name(os.fspath(value) if isinstance(value, os.PathLike) else str(value))
        return f"{Path(path).resolve()}" if name is None else f"{name}={Path(path).resolve()}"


def split_name(text: str) -> tuple[str | None, Path]:
    """The name and the path of a word [NAME=]DIR. A name holds no slash, and an existing path is not split."""
    name, equals, path = text.partition("=")
    if not equals or "/" in name or Path(text).exists():
        return None, Path(text)
    if not name.strip() or not path.strip():
        raise UsageError(f"{text!r} is no folder with a name: write NAME=DIR")
    return name.strip(), Path(path)


def format_size(width_height: tuple[int, int]) -> str:
    return f"{width_height[0]}x{width_height[1]}"


def read_size(value: object) -> tuple[int, int]:
    """Read `"WxH"` in pixels, or a width and a height."""
    if isinstance(value, Sequence) and len(value) == 2 and all(isinstance(side, numbers.Integral) for side in value):
        value = f"{value[0]}x{value[1]}"
    match = re.fullmatch(r"([1-9][0-9]{0,4})[xX×]([1-9][0-9]{0,4})", value.strip()) if isinstance(value, str) else None
    if match is None:
        raise UsageError(
            f"{reprlib.repr(value)} is not a size: give width x height in pixels, each 99999 at most, such as 320x180"
        )
    return int(match[1]), int(match[2])


def _is_size(value: object) -> bool:
    return not isinstance(value, Sequence) or (len(value) > 0 and isinstance(value[0], numbers.Integral))


MOST_BATCH = 10**6


def read_count(value: object) -> int:
    """Read a whole number of at least 1."""
    is_count = re.fullmatch(r"[0-9]{1,7}", str(value)) and not isinstance(value, bool)
    if not is_count or not 1 <= int(str(value)) <= MOST_BATCH:
        raise UsageError(f"{reprlib.repr(value)} is not a count: give whole numbers from 1 on, such as 1,4")
    return int(str(value))


def parse_setting(text: str) -> tuple[str, object]:
    """Read `key=value`; the value becomes a number, a bool or text."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UsageError(f"{text!r} is not a setting: write key=value, such as res_scale=0.1")
    return key.strip(), parse_scalar(value.strip())


def parse_scalar(text: str) -> object:
    """`text` as a bool, an int or a float if it is one, else unchanged."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for read in (parse_int, float):
        try:
            return read(text)
        except ValueError:
            continue
    return text


def read_device(value: object) -> str:
    """Check the form of a device name such as `cuda:1`, not whether the device exists."""
    name, colon, number = str(value).partition(":")
    devices = device_patterns()
    if name not in devices or (colon and not (devices[name] and re.fullmatch(devices[name], number))):
        raise UsageError(f"{value!r} is not a device: give {', '.join(devices)}, some with a number as in cuda:1")
    return str(value)


def read_cluster(value: object) -> str:
    """Check the address of a cluster: `ray`, or `ray://HOST:PORT`."""
    if not re.fullmatch(r"ray(://[^\s/:]+:\d{1,5})?", str(value)):
        raise UsageError(f"{value!r} is not a cluster: give ray, or ray://HOST:PORT")
    return str(value)


def names_of(*choices: str) -> ListOf:
    """The type of a list `a,b` of `choices`."""

    def read_name(name: object) -> str:
        if name not in choices:
            raise UsageError(f"{name!r} is not one of {', '.join(choices)}")
        return str(name)

    return ListOf("name[,name]", read_name)


SIZE = Parsed("WxH", read_size, format_size)
SIZES = ListOf("WxH[,WxH]", read_size, format_size, _is_size)
COUNTS = ListOf("N[,N]", read_count)
BYTES = Parsed("SIZE", parse_bytes, format_exact_bytes)
SETTING = Settings()
NAMED_FOLDER = NamedFolder()
CLUSTER = Parsed("ray[://HOST:PORT]", read_cluster)
DEVICE = Parsed("device", read_device)
MODEL = ModelPath("a model: give a path, a run folder, hf://OWNER/NAME or what srkd.load returned", "descriptor")
PICTURE = PathOr("a picture: give a path, a PIL image, a NumPy array or a tensor", "getbands", "shape")
