"""Decoded images in flat uint8 memory, HR and LR, ready for batched gathers; and the same in files of a cache entry.

In an entry, lr.u8 and hr.u8 hold pixels without gaps, and index.json holds names, sizes and positions.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import IO, TypeAlias

import torch
from pydantic import TypeAdapter

from compressor.base.cache_folder import map_file
from compressor.base.context import QUIET, Context
from compressor.base.errors import SrkdError, UsageError, reason_of
from compressor.degradation.chain import Degradation

LAYOUT_VERSION = 4
"""Part of every cache key: a new layout or decoding invalidates all entries."""

INDEX_FILE, LR_FILE, HR_FILE = "index.json", "lr.u8", "hr.u8"


@dataclass(frozen=True)
class SkippedImage:
    path: Path
    reason: str

    def __str__(self) -> str:
        return self.reason if str(self.path) in self.reason else f"{self.path}: {self.reason}"


@dataclass(frozen=True)
class Plane:
    """The images of one resolution in flat memory, concatenated as C,H,W."""

    flat: torch.Tensor
    """The pixels, on any device; where they lie is known on the CPU."""
    offsets: torch.Tensor
    heights: torch.Tensor
    widths: torch.Tensor

    def image(self, index: int) -> torch.Tensor:
        """Return image `index` as a (3,H,W) view."""
        start, h, w = (int(column[index]) for column in (self.offsets, self.heights, self.widths))
        return self.flat[start : start + 3 * h * w].view(3, h, w)

    def to(self, device: torch.device) -> Plane:
        return replace(self, flat=self.flat.to(device))


@dataclass(frozen=True)
class DegradedImages:
    """Images of which every sample of every step makes an LR patch of its own, and how; or each image has made one."""

    degradation: Degradation
    images: Plane
    """The originals, `scale` times as large as the LR images; without originals the LR images, and a scale of 1."""
    scale: int
    once: bool = False
    """Whether the LR images of the store are already degraded, and no sample is any more; `images` are as they were."""


@dataclass(frozen=True)
class ImageStore:
    """HR images cropped to multiples of the scale, and their LR images of 1/scale the size; or only LR images."""

    scale: int
    names: tuple[str, ...]
    hr: Plane | None
    lr: Plane
    skipped: tuple[SkippedImage, ...]
    digests: tuple[str, ...]
    """One hash per image, of all its LR and HR pixels."""
    degraded: DegradedImages | None = None
    """None: the LR images are used as they are."""

    def __len__(self) -> int:
        return len(self.names)

    @property
    def bytes(self) -> int:
        planes = {id(plane): plane for plane in (self.lr, self._source, self.hr) if plane is not None}
        return sum(plane.flat.numel() * plane.flat.element_size() for plane in planes.values())

    @property
    def clean_lr(self) -> Plane:
        """The LR images before they were degraded."""
        return self.degraded.images if self.degraded is not None and self.degraded.once else self.lr

    @property
    def _source(self) -> Plane | None:
        return None if self.degraded is None else self.degraded.images

    def digest(self) -> str:
        """Return a hash of scale, names and pixels: equal for the same images in the same order."""
        return hashlib.blake2b(repr((self.scale, self.names, self.digests)).encode(), digest_size=16).hexdigest()

    def to(self, device: torch.device) -> ImageStore:
        moved = {id(plane): plane.to(device) for plane in (self.lr, self.hr, self._source) if plane is not None}
        hr = None if self.hr is None else moved[id(self.hr)]
        degraded = self.degraded
        if degraded is not None:
            degraded = replace(degraded, images=moved[id(degraded.images)])
        return replace(self, hr=hr, lr=moved[id(self.lr)], degraded=degraded)

    def with_degradation(self, degradation: Degradation) -> ImageStore:
        """The same images, whose LR patches are made anew for every sample."""
        images, scale = (self.lr, 1) if self.hr is None else (self.hr, self.scale)
        return replace(self, degraded=DegradedImages(degradation, images, scale))

    def degraded_once(self, degradation: Degradation, context: Context = QUIET) -> ImageStore:
        """The same images with LR images that are degraded, each always in the same way; all its patches share it."""
        images, scale = (self.lr, 1) if self.hr is None else (self.hr, self.scale)
        plane, digests = replace(self.lr, flat=torch.empty_like(self.lr.flat)), list[str]()
        for index, name in enumerate(context.each("degrading images", self.names)):
            degraded = degradation.of_image(images.image(index), scale, name)
            plane.image(index).copy_(degraded)
            pixels = hashlib.blake2b(degraded.numpy().tobytes(), key=self.digests[index].encode(), digest_size=16)
            digests.append(pixels.hexdigest())
        once = DegradedImages(degradation, self.lr, 1, once=True)
        return replace(self, lr=plane, digests=tuple(digests), degraded=once)


@dataclass(frozen=True)
class Extent:
    """The position and size of one image in flat memory."""

    start: int
    height: int
    width: int


@dataclass(frozen=True)
class ImageRecord:
    """The extents of one decoded image, and the hash of all its pixels."""

    name: str
    path: Path
    lr: Extent
    hr: Extent | None
    digest: str


@dataclass(frozen=True)
class DecodedImages:
    """All images of a list of sources, decoded or skipped, in the order of the list."""

    scale: int
    images: tuple[ImageRecord | SkippedImage, ...]
    lr: torch.Tensor
    hr: torch.Tensor | None

    @property
    def bytes(self) -> int:
        return self.lr.numel() + (0 if self.hr is None else self.hr.numel())

    def select(self, positions: Sequence[int] | None = None, *, lr_patch: int) -> ImageStore:
        """Return some of the images, or all, skipping those smaller than a patch; an error if none is left."""
        positions = range(len(self.images)) if positions is None else positions
        records: list[ImageRecord] = []
        skipped: list[SkippedImage] = []
        for image in (self.images[position] for position in positions):
            if isinstance(image, SkippedImage):
                skipped.append(image)
            elif min(image.lr.height, image.lr.width) < lr_patch:
                size, patch = (image.lr, lr_patch) if image.hr is None else (image.hr, lr_patch * self.scale)
                reason = f"{size.width}x{size.height} is smaller than a patch of {patch}x{patch}"
                skipped.append(SkippedImage(image.path, reason))
            else:
                records.append(image)
        if not records:
            first = f"; the first: {skipped[0]}" if skipped else ""
            raise UsageError(f"none of {len(positions)} images can be used{first}")
        hr = [image.hr for image in records if image.hr is not None]
        return ImageStore(
            scale=self.scale,
            names=tuple(image.name for image in records),
            hr=None if self.hr is None else plane_of(self.hr, hr),
            lr=plane_of(self.lr, [image.lr for image in records]),
            skipped=tuple(skipped),
            digests=tuple(image.digest for image in records),
        )


DecodeInto: TypeAlias = Callable[[IO[bytes], IO[bytes]], DecodedImages]
"""Decodes all images into two files, or into memory: LR and HR pixels."""


def plane_of(flat: torch.Tensor, extents: Sequence[Extent]) -> Plane:
    columns = ([getattr(extent, field) for extent in extents] for field in ("start", "height", "width"))
    return Plane(flat, *(torch.tensor(column) for column in columns))


def append_image(file: IO[bytes], image: torch.Tensor) -> Extent:
    """Write the pixels of an image behind those in a file, or in memory (BytesIO)."""
    extent = Extent(file.tell(), image.shape[1], image.shape[2])
    file.write(image.numpy().data.cast("B"))
    return extent


def pixels_of(file: IO[bytes]) -> torch.Tensor:
    """Return the pixels that were written to a file, or to memory, without a copy."""
    if not file.tell():
        return torch.empty(0, dtype=torch.uint8)
    if isinstance(file, BytesIO):
        return torch.frombuffer(file.getbuffer(), dtype=torch.uint8)
    file.flush()
    return torch.frombuffer(map_file(file), dtype=torch.uint8)


_INDEX = TypeAdapter(tuple[int, tuple[ImageRecord | SkippedImage, ...]])
"""The contents of index.json: the scale and the images."""


def write_entry(decode_into: DecodeInto, folder: Path) -> None:
    with open(folder / LR_FILE, "w+b") as lr, open(folder / HR_FILE, "w+b") as hr:
        images = decode_into(lr, hr)
    # Not pydantic's own JSON: names of files need not be UTF-8.
    content = json.dumps([images.scale, [asdict(image) for image in images.images]], default=str)
    (folder / INDEX_FILE).write_text(content, encoding="utf-8")


def read_entry(folder: Path) -> DecodedImages:
    """Return the memory-mapped entry; FileNotFoundError if there is none, SrkdError if it is damaged."""
    try:
        scale, images = _INDEX.validate_python(json.loads((folder / INDEX_FILE).read_text(encoding="utf-8")))
    except ValueError as error:
        raise SrkdError(f"its {INDEX_FILE} cannot be read: {reason_of(error)}") from error
    records = [image for image in images if isinstance(image, ImageRecord)]
    originals = [image.hr for image in records if image.hr is not None]
    lr = _map_pixels(folder / LR_FILE, [image.lr for image in records])
    return DecodedImages(scale, images, lr, _map_pixels(folder / HR_FILE, originals) if originals else None)


def _map_pixels(path: Path, extents: Sequence[Extent]) -> torch.Tensor:
    with open(path, "rb") as file:
        return torch.frombuffer(map_file(file), dtype=torch.uint8) if extents else torch.empty(0, dtype=torch.uint8)
