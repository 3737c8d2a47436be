"""Types of command-line values for several verbs: sizes, bytes, key=value pairs, devices, lists of names."""

from __future__ import annotations

import numbers
import os
import re
import reprlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import AfterValidator

from compressor.assets.shipped import shipped_names
from compressor.base.cache_folder import format_exact_bytes, parse_bytes
from compressor.base.errors import UsageError, nearest
from compressor.base.files import require_writable_folder
from compressor.base.hub import is_address, pull, read_repository
from compressor.runtimes.table import device_patterns
from srkd.options.option import Reader


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


def output_file(out: Path | None, runs: Sequence[Path], name: str, require: Callable[[Path, str], None]) -> Path:
    """The file to write: `out`, checked by `require`, or `name` in the folder of the only run."""
    if out is not None:
        require(out, "--out")
        return out
    if len(runs) != 1:
        raise UsageError(f"{len(runs)} runs make one file: name it with --out FILE{Path(name).suffix}")
    return runs[0] / name


def run_folders(runs: object) -> list[Path]:
    folders = [Path(run) for run in as_tuple(runs)]
    if not folders:
        raise UsageError("no run folder: name at least one")
    return folders


def as_tuple(values: object) -> tuple[Any, ...]:
    """One value or a sequence of values as a tuple. A string is one value."""
    return tuple(values) if isinstance(values, Sequence) and not isinstance(values, str) else (values,)


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


def read_sizes(value: Any) -> tuple[tuple[int, int], ...]:
    """Read sizes `"WxH,WxH"`, one size, or a sequence of them."""
    is_size = isinstance(value, Sequence) and len(value) > 0 and isinstance(value[0], numbers.Integral)
    return read_list(read_size, (value,) if is_size else value)


MOST_BATCH = 10**6


def read_count(value: object) -> int:
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
    for read in (int, float):
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


def read_settings(value: object) -> dict[str, object]:
    return dict(value) if isinstance(value, Mapping) else dict(map(parse_setting, as_tuple(value)))


def read_named_folder(value: object) -> str:
    """Read a word [NAME=]DIR; the path becomes absolute, so that a run continues from any folder."""
    name, path = split_name(os.fspath(value) if isinstance(value, os.PathLike) else str(value))
    return f"{path.resolve()}" if name is None else f"{name}={path.resolve()}"


def absolute_input(value: Any) -> Any:
    """Return a path, or each of several once, as an absolute one; an object stays as it is."""
    if isinstance(value, tuple):
        return tuple(dict.fromkeys(map(absolute_input, value)))
    return Path(value).absolute() if isinstance(value, (str, os.PathLike)) else value


def read_model(value: object) -> Any:
    """Check a model: a path, the name of a student of srkd, an address of the hub, which is fetched, or a network."""
    if isinstance(value, str) and is_address(value):
        return pull(value)
    if isinstance(value, str) and value in shipped_names():
        from compressor.models.students.shipped import unpack_student  # imports torch

        return unpack_student(value)
    if not isinstance(value, (str, os.PathLike)) and not hasattr(value, "descriptor"):
        raise UsageError(f"{reprlib.repr(value)} is not {A_MODEL}")
    return value


def read_picture(value: object) -> Any:
    if not isinstance(value, (str, os.PathLike)) and not any(hasattr(value, name) for name in ("getbands", "shape")):
        raise UsageError(f"{reprlib.repr(value)} is not a picture: give a path, a PIL image, a NumPy array or a tensor")
    return value


def read_list(read: Callable[[Any], Any], value: Any) -> tuple[Any, ...]:
    """Read a list `a,b`, one value or a sequence of them, without duplicates."""
    words = map(str.strip, value.split(",")) if isinstance(value, str) else as_tuple(value)
    return tuple(dict.fromkeys(map(read, words)))


def show_list(values: Sequence[object]) -> str:
    return ",".join(map(str, values))


def one_of(*names: str) -> Reader:
    """The reader of one of some names that are known only at run time."""

    def read(value: object) -> str:
        if value not in names:
            raise UsageError(f"{value!r} is not one of them; {nearest(str(value), names)}")
        return str(value)

    return Reader("NAME", read, names=names)


def names_of(*names: str) -> Reader:
    """The reader of a list `a,b` of some names."""
    return Reader("NAME[,NAME]", partial(read_list, one_of(*names).read), show_list)


def each(metavar: str, read: Callable[[Any], Any] = lambda value: value) -> Reader:
    """The reader of several words, each by `read`; from Python one text, a sequence, or one object, which stays one."""

    def read_all(value: Any) -> Any:
        is_object = not isinstance(value, (str, os.PathLike, Sequence))
        return read(value) if is_object else tuple(map(read, as_tuple(value)))

    return Reader(metavar, read_all, is_multiple=True)


A_MODEL = "a model: give a path, a run folder, a name of `srkd students`, hf://OWNER/NAME or what srkd.load returned"

SIZE = Reader("WxH", read_size, format_size)
SIZES = Reader("WxH[,WxH]", read_sizes)
COUNTS = Reader("N[,N]", partial(read_list, read_count), show_list)
STRENGTHS = Reader("X[,X]", partial(read_list, float), show_list)
BYTES = Reader("SIZE", parse_bytes, format_exact_bytes)
SETTING = Reader("KEY=VALUE", read_settings, is_multiple=True)
TEXTS = each("TEXT")
PATHS = each("PATH")
NAMED_FOLDERS = each("[NAME=]DIR", read_named_folder)
CLUSTER = Reader("ray[://HOST:PORT]", read_cluster)
DEVICE = Reader("DEVICE", read_device)
REPOSITORY = Reader("OWNER/NAME", read_repository)
MODEL = Reader("MODEL", read_model)
MODELS = each("MODEL", read_model)
PICTURES = each("PATH", read_picture)
INPUT = AfterValidator(absolute_input)
"""The paths of an input become absolute, so that a run continues from any folder."""
