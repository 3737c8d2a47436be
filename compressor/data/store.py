"""Images decoded once into flat uint8 memory, HR beside LR, ready for batched gathers on the device."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from compressor.errors import SrkdError
from compressor.images import read_rgb_u8
from compressor.imagesets import ImagePair
from compressor.progress import Progress, silent
from compressor.resize import downscale_u8, mod_crop

Border = Literal["mirror", "clamp"]
PIXEL_STRIDE = 1021
"""Every so many bytes of a store enter its digest: a prime, so that no column is favoured."""


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
    """HR images, mod-cropped to the scale, and their LR images of exactly 1/scale the size."""

    scale: int
    names: tuple[str, ...]
    hr: Plane
    lr: Plane
    skipped: tuple[Skipped, ...]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def bytes(self) -> int:
        return self.hr.flat.numel() + self.lr.flat.numel()

    def digest(self) -> str:
        """A hash of names, sizes and a sample of the pixels: equal for the same images in the same order."""
        hashed = hashlib.blake2b(
            repr((self.scale, self.names, self.hr.heights.tolist(), self.hr.widths.tolist())).encode()
        )
        for plane in (self.hr, self.lr):
            hashed.update(plane.flat[::PIXEL_STRIDE].cpu().numpy().tobytes())
        return hashed.hexdigest()[:32]

    def to(self, device: torch.device) -> ImageStore:
        return ImageStore(self.scale, self.names, self.hr.to(device), self.lr.to(device), self.skipped)


def build_store(
    pairs: Sequence[ImagePair],
    *,
    scale: int,
    lr_patch: int,
    border: Border = "mirror",
    progress: Progress = silent,
    workers: int = 2,
) -> ImageStore:
    """Decode every pair; make the LR image where none is given; skip what is unreadable or smaller than a patch."""
    kept: list[tuple[str, torch.Tensor, torch.Tensor]] = []
    skipped: list[Skipped] = []
    with ThreadPoolExecutor(workers) as pool:
        decoded = pool.map(lambda pair: _decode(pair, scale, lr_patch, border), pairs)
        for done, (pair, result) in enumerate(zip(pairs, decoded, strict=True), start=1):
            if isinstance(result, Skipped):
                skipped.append(result)
            else:
                kept.append((pair.stem, *result))
            progress("reading images", done, len(pairs))
    if not kept:
        first = f"; the first: {skipped[0].path}: {skipped[0].reason}" if skipped else ""
        raise SrkdError(f"none of {len(pairs)} images can be used{first}")
    names, hr_images, lr_images = zip(*kept, strict=True)
    return ImageStore(scale, names, _plane(hr_images), _plane(lr_images), tuple(skipped))


def _decode(pair: ImagePair, scale: int, lr_patch: int, border: Border) -> tuple[torch.Tensor, torch.Tensor] | Skipped:
    try:
        hr_u8 = mod_crop(read_rgb_u8(pair.hr), scale)
        if min(hr_u8.shape[1:]) < lr_patch * scale:
            size = f"{hr_u8.shape[2]}x{hr_u8.shape[1]}"
            return Skipped(pair.hr, f"{size} is smaller than a patch of {lr_patch * scale}x{lr_patch * scale}")
        lr_u8 = downscale_u8(hr_u8, scale, border=border) if pair.lr is None else read_rgb_u8(pair.lr)
        wanted = (3, hr_u8.shape[1] // scale, hr_u8.shape[2] // scale)
        if tuple(lr_u8.shape) != wanted:
            return Skipped(
                pair.lr or pair.hr, f"LR is {_size(lr_u8)}, its HR needs {wanted[2]}x{wanted[1]} at x{scale}"
            )
        return hr_u8, lr_u8
    except SrkdError as error:
        return Skipped(pair.hr, str(error))


def _size(image: torch.Tensor) -> str:
    return f"{image.shape[2]}x{image.shape[1]}"


def _plane(images: Sequence[torch.Tensor]) -> Plane:
    sizes = torch.tensor([image.numel() for image in images])
    return Plane(
        flat=torch.cat([image.reshape(-1) for image in images]),
        offsets=torch.cumsum(sizes, 0) - sizes,
        heights=torch.tensor([image.shape[1] for image in images]),
        widths=torch.tensor([image.shape[2] for image in images]),
    )
