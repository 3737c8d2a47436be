"""The margin that a teacher sees around the patches of a batch, so that its images of them are those of whole images.

A teacher that runs on a patch alone sees zeros beyond it. The deeper the teacher and the smaller the patch, the more of
the patch that changes. With a margin the teacher runs on a window around each patch, and its image is cropped.

The difference is measured: PSNR in dB over RGB of some patches together, between the teacher's images of the windows
and the crops of its whole images. Of a large image that is a window with REFERENCE_MARGIN pixels on each side.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import torch

from compressor.base.context import Context
from compressor.base.decided import LabelMargin
from compressor.base.errors import UsageError
from compressor.data.batches import Batches, Draw, WiderPatches, around, gather
from compressor.data.store import ImageStore
from compressor.images.scores import EQUAL_DB
from compressor.inference.tiling import run_tiled
from compressor.models.networks.cost import pixel_bytes
from compressor.teachers.teacher import Teacher

FINE_DB = 35.0
"""Labels of patches alone that are this close to whole images need no margin: none brought students closer."""
WANTED_DB = 45.0
"""A margin is doubled until the labels are this close."""
NEAR_DB = 0.5
"""If no margin reaches that, the smallest one is used that is this close to the best."""

FIRST_MARGIN, LARGEST_MARGIN = 4, 64
REFERENCE_MARGIN = 128
MEASURED_PATCHES = 8
MEASURED_SEED = 0
"""Always the same patches of the same images, so that runs with different seeds have the same margin."""


def given_margin(pixels: int, teacher: Teacher, store: ImageStore, lr_patch: int) -> LabelMargin:
    """The margin of `--label-margin`; refuse it if neither images nor teacher leave room for any."""
    side = _side(pixels, teacher, store, lr_patch)
    if pixels and side - lr_patch < 2:
        raise UsageError(
            f"--label-margin {pixels}: the smallest LR image, or the step of the teacher's sizes, leaves no room "
            f"around a patch of {lr_patch}x{lr_patch}; leave it out, or add --teacher-cache"
        )
    return LabelMargin((side - lr_patch) // 2, side)


def measure_margin(teacher: Teacher, store: ImageStore, lr_patch: int, context: Context) -> LabelMargin:
    """The smallest margin with which labels are those of whole images, or as close to them as can be."""
    batches = Batches.for_store(store, batch=MEASURED_PATCHES, lr_patch=lr_patch, seed=MEASURED_SEED)
    drawn = batches.sampler.draw(0, batches.samples)
    upright = torch.zeros(MEASURED_PATCHES, dtype=torch.bool)
    draw = replace(drawn, hflip=upright, vflip=upright, transpose=upright)
    whole = torch.stack(list(_whole_images(teacher, store, draw, lr_patch, context)))

    def psnr_of(side: int) -> float:
        windows, corners = around(draw, store.lr.heights, store.lr.widths, lr_patch, side)
        lr = gather(store.lr, windows, side, 1).to(teacher.device).float() / 255
        difference = WiderPatches(lr, lr_patch, corners).crop(teacher(lr).float()).cpu().double() - whole
        mse = float(difference.square().mean())
        return min(EQUAL_DB, -10 * math.log10(mse)) if mse else EQUAL_DB

    measured = {lr_patch: psnr_of(lr_patch)}
    alone = measured[lr_patch]
    pixels = FIRST_MARGIN
    while max(measured.values()) < (FINE_DB if len(measured) == 1 else WANTED_DB) and pixels <= LARGEST_MARGIN:
        side = _side(pixels, teacher, store, lr_patch)
        if side not in measured:
            measured[side] = psnr_of(side)
        pixels *= 2
    enough = min(WANTED_DB, max(measured.values()) - NEAR_DB)
    side = lr_patch if alone >= FINE_DB else next(side for side, psnr in measured.items() if psnr >= enough)
    return LabelMargin((side - lr_patch) // 2, side, round(alone, 2), round(measured[side], 2))


def _side(pixels: int, teacher: Teacher, store: ImageStore, lr_patch: int) -> int:
    """The side of windows with a margin, within the smallest image, the receptive field and the teacher's sizes.

    The teacher is not of one size only.
    """
    sizes, radius = teacher.own_sizes, teacher.descriptor.receptive_radius
    pixels = pixels if radius is None else min(pixels, radius)
    side = min(lr_patch + 2 * pixels, int(store.lr.heights.min()), int(store.lr.widths.min()), *(sizes.max_size or ()))
    return max(lr_patch, side - side % sizes.size_multiple)


def _whole_images(
    teacher: Teacher, store: ImageStore, draw: Draw, lr_patch: int, context: Context
) -> Iterator[torch.Tensor]:
    """The crops of the teacher's whole images over the patches."""
    scale, radius = teacher.descriptor.scale, teacher.descriptor.receptive_radius
    margin = REFERENCE_MARGIN if radius is None else min(radius, REFERENCE_MARGIN)
    memory = None if teacher.network is None else pixel_bytes(teacher.network.spec)
    places = list(zip(draw.images.tolist(), draw.tops.tolist(), draw.lefts.tolist(), strict=True))
    for image, top, left in context.each("measuring the labels", places):
        first_row, first_column = max(0, top - margin), max(0, left - margin)
        rows = slice(first_row, top + lr_patch + margin)
        columns = slice(first_column, left + lr_patch + margin)
        lr = store.lr.image(image)[None, :, rows, columns].to(teacher.device).float() / 255
        sizes = replace(teacher.descriptor, fixed_size=None)
        sr = run_tiled(lambda window: teacher(window).float(), lr, sizes, pixel_bytes=memory).sr[0].cpu().double()
        y, x, side = (top - first_row) * scale, (left - first_column) * scale, lr_patch * scale
        yield sr[:, y : y + side, x : x + side]
