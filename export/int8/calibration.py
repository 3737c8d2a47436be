"""The patches on which an int8 format measures the values of a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn import functional as F

from compressor.base.errors import UsageError
from compressor.degradation.chain import Degradation
from compressor.images.files import read_rgb_u8
from compressor.images.resize import downscale_u8, mirror_to, mod_crop
from compressor.images.sets import embedded_photos, evenly_spaced_photos
from compressor.models.fitting.patches import texture_of
from compressor.models.networks.base import Descriptor

COUNT = 32
SIDE = 48
LARGE, FEWEST = 4, 4
"""Patches of a large size are fewer, down to `FEWEST`: together as many pixels as `LARGE` times the usual ones."""
PHOTOS = 64
"""Largest number of photos that are read from a folder."""

COLOURS = ((0, 0, 0), (1, 1, 1), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 1, 1), (1, 0, 1), (1, 1, 0), (0.5, 0.5, 0.5))


@dataclass(frozen=True)
class CalibrationPatches:
    """Low-resolution patches (N, C, side, side) in [0,1], and a line about their source for a file's metadata."""

    patches: torch.Tensor
    source: str


def calibration_patches(
    descriptor: Descriptor, folder: Path | None = None, degradation: Degradation | None = None, *, count: int = COUNT
) -> CalibrationPatches:
    """Patches of downscaled photos, equally many of each, and one patch of flat colours.

    A file of one size takes patches of that size, and a photo that is smaller goes on by reflection; one that has less
    than a usual patch is left out.

    Of a student that was trained on degraded images every second patch is degraded. Without a folder they come from the
    embedded training photos. Colours at the ends of [0,1] are rare in photos; a calibrated range that does not contain
    them would shift them.
    """
    if folder is None:
        photos, where = {**embedded_photos("train"), **embedded_photos("calibration")}, "embedded photos"
    else:
        photos = evenly_spaced_photos(folder, PHOTOS, option="--calibrate")
        where = f"{len(photos)} photos of {folder.name}"
    side = descriptor.fixed_size or (_whole(SIDE, descriptor), _whole(SIDE, descriptor))
    count = min(count, max(FEWEST, LARGE * COUNT * SIDE**2 // (side[0] * side[1])))
    patches = [
        patch
        for path in photos.values()
        for patch in _patches(path, descriptor, side, -(-count // len(photos)), degradation)
    ]
    if not patches:
        least = [min(SIDE, length) * descriptor.scale for length in side]
        raise UsageError(f"--calibrate {folder}: no photo has {least[0]}x{least[1]} pixels: give larger ones")
    count = min(count, len(patches))
    patches = [patches[index * len(patches) // count] for index in range(count)]
    if not any(float(texture_of(patch[None])) for patch in patches):
        raise UsageError(f"--calibrate {folder}: its images are flat, which no photo is: give photos")
    where += "" if degradation is None else f", every second one degraded by {degradation.name}"
    return CalibrationPatches(
        torch.stack([*patches, _colour_patch(descriptor, side)]), f"{len(patches)} patches of {where}, flat colours"
    )


def _whole(length: int, descriptor: Descriptor) -> int:
    step = descriptor.size_multiple
    return -(-max(length, descriptor.min_size) // step) * step


def _patches(
    path: Path, descriptor: Descriptor, size: tuple[int, int], count: int, degradation: Degradation | None
) -> Sequence[torch.Tensor]:
    """Patches of a photo, from the flattest to the most textured; neighbours overlap by half.

    The most textured ones alone widen ranges for what is rare in photos (0.02 dB on Set5).
    """
    hr, scale = mod_crop(read_rgb_u8(path), descriptor.scale), descriptor.scale
    if any(pixels < min(SIDE, length) * scale for pixels, length in zip(hr.shape[-2:], reversed(size), strict=True)):
        return ()
    hr = mirror_to(hr, size[1] * scale, size[0] * scale)
    clean = _tiles(downscale_u8(hr, scale)[: descriptor.channels], size)
    order = texture_of(clean).argsort(stable=True)
    ranks = order[torch.linspace(0, len(order) - 1, min(count, len(order))).round().long()]
    patches = clean[ranks]
    if degradation is not None:
        patches[1::2] = _tiles(degradation.of_image(hr, scale, path.stem)[: descriptor.channels], size)[ranks[1::2]]
    return list(patches.float().div(255))


def _tiles(lr: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """The patches (N,C,H,W) of an image in uint8."""
    width, height = size
    tiles = lr.unfold(1, height, max(1, height // 2)).unfold(2, width, max(1, width // 2))
    return tiles.permute(1, 2, 0, 3, 4).reshape(-1, lr.shape[0], height, width)


def _colour_patch(descriptor: Descriptor, size: tuple[int, int]) -> torch.Tensor:
    """A patch of nine flat colours, 3x3, with smooth transitions: no photo has hard edges between them."""
    grid = torch.tensor(COLOURS).float().reshape(3, 3, 3).permute(2, 0, 1)
    height, width = size[1], size[0]
    return F.interpolate(grid[None], size=(height, width), mode="bicubic").clamp(0, 1)[0, : descriptor.channels]
