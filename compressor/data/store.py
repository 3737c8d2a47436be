"""Images decoded once into flat uint8 memory, HR beside LR, ready for batched gathers on the device.

How decoded images lie on disk and in memory: lr.u8 and hr.u8 hold pixels without gaps, index.json tells of them.

Where the images lie while a network trains: on the GPU where they fit, otherwise beside it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
import torch

from compressor.base.cache_folder import mapped, told
from compressor.base.context import Note
from compressor.base.errors import SrkdError


@dataclass(frozen=True)
class Skipped:
    """An image that was left out, and why."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Plane:
    """Where the images of one resolution lie in flat memory (uint8 pixels): C,H,W each, one after the other."""

    flat: torch.Tensor
    offsets: torch.Tensor
    heights: torch.Tensor
    widths: torch.Tensor

    def image(self, index: int) -> torch.Tensor:
        """Image `index` as a (3,H,W) view."""
        start, h, w = (int(column[index]) for column in (self.offsets, self.heights, self.widths))
        return self.flat[start : start + 3 * h * w].view(3, h, w)

    def to(self, device: torch.device) -> Plane:
        moved = (column.to(device) for column in (self.flat, self.offsets, self.heights, self.widths))
        return Plane(*moved)


@dataclass(frozen=True)
class ImageStore:
    """HR images, mod-cropped to the scale, and their LR images of exactly 1/scale the size; or LR images alone."""

    scale: int
    names: tuple[str, ...]
    hr: Plane | None
    lr: Plane
    skipped: tuple[Skipped, ...]
    digests: tuple[str, ...]
    """One hash an image, of all its pixels, LR and HR."""

    def __len__(self) -> int:
        return len(self.names)

    @property
    def bytes(self) -> int:
        return sum(plane.flat.numel() * plane.flat.element_size() for plane in (self.lr, self.hr) if plane is not None)

    def digest(self) -> str:
        """A hash of scale, names and pixels: equal for the same images in the same order."""
        return hashlib.blake2b(repr((self.scale, self.names, self.digests)).encode(), digest_size=16).hexdigest()

    def to(self, device: torch.device) -> ImageStore:
        hr = None if self.hr is None else self.hr.to(device)
        return ImageStore(self.scale, self.names, hr, self.lr.to(device), self.skipped, self.digests)


@dataclass(frozen=True)
class Extent:
    """Where one image lies in flat memory, and how large it is."""

    start: int
    height: int
    width: int

    @property
    def bytes(self) -> int:
        return 3 * self.height * self.width


@dataclass(frozen=True)
class Stored:
    """One decoded image, and the hash of all its pixels."""

    name: str
    path: Path
    lr: Extent
    hr: Extent | None
    digest: str


@dataclass(frozen=True)
class Decoded:
    """Everything that was asked for, decoded or skipped, in the order of asking."""

    scale: int
    images: tuple[Stored | Skipped, ...]
    lr: torch.Tensor
    hr: torch.Tensor | None

    @property
    def bytes(self) -> int:
        return self.lr.numel() + (0 if self.hr is None else self.hr.numel())

    def select(self, positions: Sequence[int], *, lr_patch: int) -> ImageStore:
        """Some of the images; what is smaller than a patch is skipped, and no image left is an error."""
        kept: list[Stored] = []
        skipped: list[Skipped] = []
        for image in (self.images[position] for position in positions):
            if isinstance(image, Skipped):
                skipped.append(image)
            elif min(image.lr.height, image.lr.width) < lr_patch:
                skipped.append(Skipped(image.path, self._too_small(image, lr_patch)))
            else:
                kept.append(image)
        if not kept:
            first = f"; the first: {skipped[0].path}: {skipped[0].reason}" if skipped else ""
            raise SrkdError(f"none of {len(positions)} images can be used{first}")
        hr = [image.hr for image in kept if image.hr is not None]
        return ImageStore(
            scale=self.scale,
            names=tuple(image.name for image in kept),
            hr=None if self.hr is None else _plane(self.hr, hr),
            lr=_plane(self.lr, [image.lr for image in kept]),
            skipped=tuple(skipped),
            digests=tuple(image.digest for image in kept),
        )

    def _too_small(self, image: Stored, lr_patch: int) -> str:
        size, patch = (image.lr, lr_patch) if image.hr is None else (image.hr, lr_patch * self.scale)
        return f"{size.width}x{size.height} is smaller than a patch of {patch}x{patch}"


def _plane(flat: torch.Tensor, extents: Sequence[Extent]) -> Plane:
    columns = ([getattr(extent, field) for extent in extents] for field in ("start", "height", "width"))
    return Plane(flat, *(torch.tensor(column) for column in columns))


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
    lr = _map_plane(folder / LR, lr_bytes)
    return Decoded(scale, images, lr, None if hr_bytes is None else _map_plane(folder / HR, hr_bytes))


def _map_plane(path: Path, size: int) -> torch.Tensor:
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


SHARE = 0.5
"""Of a device's free memory, what images may take: activations and gradients need the rest."""


def free_memory(device: torch.device) -> int | None:
    """Bytes free on a device with memory of its own; None where it shares the host's."""
    return int(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else None


def placed(
    store: ImageStore,
    device: torch.device,
    announce: Note,
    free: Callable[[torch.device], int | None] = free_memory,
) -> ImageStore:
    """The store on the device where it fits; on a CPU the store as it is, which the system keeps in memory."""
    if device.type == "cpu":
        return store
    return store.to(device) if has_room(store.bytes, "the images", device, announce, free) else store


def has_room(
    size: int,
    what: str,
    device: torch.device,
    announce: Note,
    free: Callable[[torch.device], int | None] = free_memory,
) -> bool:
    """Whether so many bytes may lie on the device; says so."""
    room = free(device)
    if room is None or size <= SHARE * room:
        announce(f"{what} ({told(size)}) lie on {device}")
        return True
    announce(
        f"{what} ({told(size)}) stay in the host's memory: {device} has {told(room)} free and training "
        "needs half of it; patches are carried over batch by batch"
    )
    return False


def packed(plane: Plane, device: torch.device) -> Plane:
    """The plane's own images and nothing else of its file, on `device`; they never stand together on the way."""
    sizes = 3 * plane.heights * plane.widths
    offsets = torch.cumsum(sizes, 0) - sizes
    flat = torch.empty(int(sizes.sum()), dtype=plane.flat.dtype, device=device)
    for index, (start, size) in enumerate(zip(offsets.tolist(), sizes.tolist(), strict=True)):
        flat[start : start + size] = plane.image(index).reshape(-1)
    return Plane(flat, *(column.to(device) for column in (offsets, plane.heights, plane.widths)))


def carried(patches: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Patches on `device`. To CUDA from page-locked memory, so that the copy runs while the GPU computes."""
    if patches.device == device:
        return patches
    if device.type == "cuda" and patches.device.type == "cpu":
        patches = patches.pin_memory()
    return patches.to(device, non_blocking=True)
