"""How decoded images lie on disk and in memory: lr.u8 and hr.u8 hold pixels without gaps, index.json tells of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
import torch

from compressor.data.cache_folder import mapped
from compressor.data.store import Decoded, Extent, Skipped, Stored
from compressor.errors import SrkdError

VERSION = 1
"""Of this layout and of the way images are decoded: a new one makes every entry anew."""

INDEX, LR, HR = "index.json", "lr.u8", "hr.u8"


class Flat(Protocol):
    """Pixels of image after image."""

    def append(self, image: torch.Tensor) -> Extent: ...

    def tensor(self) -> torch.Tensor: ...


class Memory:
    """Room taken at once, so that no second copy is needed at the end; what stays empty costs nothing."""

    def __init__(self, room: int) -> None:
        self.room = np.empty(room, np.uint8)
        self.used = 0

    def append(self, image: torch.Tensor) -> Extent:
        extent = _extent(self.used, image)
        if extent.start + extent.bytes > len(self.room):
            raise SrkdError("an image became larger while the images were being read: run the command again")
        self.room[extent.start : extent.start + extent.bytes] = image.numpy().reshape(-1)
        self.used += extent.bytes
        return extent

    def tensor(self) -> torch.Tensor:
        return torch.from_numpy(self.room[: self.used])


class File:
    """A file that grows; its pixels never stand in memory together."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.used = file, 0

    def append(self, image: torch.Tensor) -> Extent:
        extent = _extent(self.used, image)
        self.file.write(image.numpy().data.cast("B"))
        self.used += extent.bytes
        return extent

    def tensor(self) -> torch.Tensor:
        self.file.flush()
        return _mapped_u8(self.file, self.used)


@contextmanager
def open_planes(folder: Path) -> Iterator[tuple[File, File]]:
    """The two files of a new entry."""
    with open(folder / LR, "w+b") as lr, open(folder / HR, "w+b") as hr:
        yield File(lr), File(hr)


def write_index(folder: Path, whole: Decoded) -> None:
    index = {
        "version": VERSION,
        "scale": whole.scale,
        "lr_bytes": whole.lr.numel(),
        "hr_bytes": None if whole.hr is None else whole.hr.numel(),
        "images": [_row(image) for image in whole.images],
    }
    (folder / INDEX).write_text(json.dumps(index), encoding="utf-8")


def read_store(folder: Path) -> Decoded:
    """An entry, mapped; FileNotFoundError where there is none, SrkdError where it is not what was written."""
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        images = tuple(_image(row) for row in index["images"])
        scale, lr_bytes, hr_bytes = index["scale"], index["lr_bytes"], index["hr_bytes"]
    except (ValueError, LookupError, TypeError) as error:
        raise SrkdError(f"its {INDEX} cannot be read: {error}") from error
    lr = _plane(folder / LR, lr_bytes)
    return Decoded(scale, images, lr, None if hr_bytes is None else _plane(folder / HR, hr_bytes))


def _plane(path: Path, size: int) -> torch.Tensor:
    with open(path, "rb") as file:
        found = path.stat().st_size
        if found != size:
            raise SrkdError(f"{path.name} has {found:,} bytes and should have {size:,}")
        return _mapped_u8(file, size)


def _mapped_u8(file: IO[bytes], size: int) -> torch.Tensor:
    return torch.frombuffer(mapped(file), dtype=torch.uint8) if size else torch.empty(0, dtype=torch.uint8)


def _extent(start: int, image: torch.Tensor) -> Extent:
    return Extent(start, image.shape[1], image.shape[2])


def _row(image: Stored | Skipped) -> list[Any]:
    if isinstance(image, Skipped):
        return [str(image.path), image.reason]
    extents = [[extent.start, extent.height, extent.width] for extent in (image.lr, image.hr) if extent is not None]
    return [str(image.path), image.name, image.digest, *extents]


def _image(row: list[Any]) -> Stored | Skipped:
    path = Path(row[0])
    if len(row) == 2:
        return Skipped(path, row[1])
    _, name, digest, *extents = row
    lr, *hr = [Extent(*extent) for extent in extents]
    return Stored(name, path, lr, hr[0] if hr else None, digest)
