"""Crops of a set's photos by several networks, in one picture: twelve that are chosen by number, or some by hand."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from torch import Tensor

from compressor.base.files import atomic_path
from compressor.degradation.chain import Degradation
from compressor.images.files import read_rgb_u8
from compressor.images.metrics import to_u8
from compressor.images.resize import downscale_u8, mod_crop
from compressor.images.sets import list_images
from compressor.inference.super_resolve import super_resolve
from compressor.runtimes.base import Runtime

CROPS, SIDE, GAP = 12, 128, 4
MOST_SIDE = 480
"""Largest side in HR pixels of the part of a photo from which crops are taken."""


@dataclass(frozen=True)
class Place:
    """Where a crop lies in the enlarged picture of a photo."""

    file: Path
    top: float
    left: float
    """Shares of the room that a crop has, 0 to 1."""


def by_number(photos: Path) -> Iterator[Place]:
    """Yield twelve places, which depend on their number alone."""
    files = list_images(photos)
    for number in range(CROPS):
        share = 7 * number % CROPS / CROPS
        yield Place(files[number % len(files)], share, share)


def lr_of(hr_u8: Tensor, scale: int, degradation: Degradation | None, name: str) -> Tensor:
    """Return the LR image of a photo in [0,1], degraded as of its name, or bicubic."""
    lr = downscale_u8(hr_u8, scale) if degradation is None else degradation.of_image(hr_u8, scale, name)
    return lr.reshape(1, *lr.shape[-3:]).float() / 255


def crop_of(network: Runtime, lr: Tensor, top: int, left: int, side: int) -> Image.Image:
    """Return a crop of an image that a network enlarges."""
    image = to_u8(super_resolve(network, lr).sr)[0, :, top : top + side, left : left + side]
    return Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())


def draw_crops(
    networks: Sequence[Runtime], places: Sequence[Place], scale: int, degradation: Degradation | None, out: Path
) -> None:
    """Draw crops in two columns, each by the networks from left to right; inputs are degraded or bicubic."""
    step, wide = SIDE + GAP, len(networks)
    drawn = Image.new("RGB", (2 * wide * step + GAP, -(-len(places) // 2) * step - GAP), "white")
    for number, place in enumerate(places):
        hr = mod_crop(read_rgb_u8(place.file)[..., :MOST_SIDE, :MOST_SIDE], 4)
        lr = lr_of(hr, scale, degradation, place.file.stem)
        height, width = (scale * length - SIDE for length in lr.shape[-2:])
        top, left = int(height * place.top), int(width * place.left)
        for column, network in enumerate(networks):
            crop = crop_of(network, lr, top, left, SIDE)
            drawn.paste(crop, ((wide * (number % 2) + column) * step + GAP * (number % 2), number // 2 * step))
    stream = io.BytesIO()
    drawn.save(stream, format="WEBP", quality=88, method=6)
    with atomic_path(out) as temporary:
        temporary.write_bytes(stream.getvalue())
