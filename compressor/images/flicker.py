"""Flicker: how much enlarged images change where their input stands still.

Noise and codecs change every frame of a film a little, and a network may make more of that than there was. So two
frames are compared where nothing moved between them, in blocks of the LR image (`still_pixels`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from compressor.images.metrics import crop_both, luma_of

BLOCK = 8
"""Side in LR pixels of the blocks that stand still or don't."""
MOST_OF_MEAN = 1.0
"""Grey levels by which the mean of a still block changes at most: noise leaves it, light and movement don't."""
MOST_OF_PIXELS = 8.0
"""Mean absolute change of its pixels at most, in grey levels: strong grain has 7, and movement soon more."""
MOST_MOVED = 0.25
"""Part of the squared change that a shift of the block explains at most; of noise it explains 2 of 64 on average."""
FEWEST_STILL = 0.1
"""Part of the changed blocks that must stand still, or two frames have a cut or a moving camera between them."""
SMALLEST_SLOPE = 1e-3
"""Added to the squared gradients of a block: without any, no shift can be seen."""


def flicker(images_255: Tensor, reference_255: Tensor, *, border: int = 0) -> Tensor:
    """Mean absolute change from the frame before, for each image of (N,C,H,W): (N,) float64, in grey levels.

    `reference_255` is the frame before, NaN where the input doesn't stand still. NaN if it stands still nowhere.
    """
    images, reference = crop_both(images_255, reference_255, border)
    return (images - reference).abs().flatten(1).nanmean(dim=1)


def still_pixels(before_u8: Tensor, after_u8: Tensor) -> Tensor:
    """Return where two LR images (3,h,w) in uint8 show the same content with other noise: (h,w) of bool.

    Decided by blocks of 8x8 pixels, on their luminance Y. A block stands still if its mean moves by at most one grey
    level, its pixels by at most eight on average, and at most a quarter of that change looks like a shift: with d the
    change and g the gradient of both frames' mean, the least-squares shift explains bᵀA⁻¹b of Σd², A = Σggᵀ, b = Σgd.

    Blocks without any change say nothing and do not count. No block does where fewer than a tenth of the changed ones
    stand still: there is a cut, or the camera moves. Rows and columns beyond the last whole block do not count.
    """
    height, width = (side // BLOCK * BLOCK for side in before_u8.shape[-2:])
    nowhere = torch.zeros(before_u8.shape[-2:], dtype=torch.bool)
    if not height or not width:
        return nowhere
    before, after = (image[:, :height, :width].cpu() for image in (before_u8, after_u8))
    changed = _blocks((before != after).any(0)).any(-1)
    first, second = (luma_of(image)[0] for image in (before, after))
    change = _blocks(second - first)
    down, right = (_blocks(slope) for slope in torch.gradient((first + second) / 2))
    yy, xx = (slope.square().sum(-1) + SMALLEST_SLOPE for slope in (down, right))
    yx, y, x = ((one * other).sum(-1) for one, other in ((down, right), (down, change), (right, change)))
    explained = (xx * y.square() - 2 * yx * y * x + yy * x.square()) / (yy * xx - yx.square())  # bᵀA⁻¹b
    still = changed & (change.mean(-1).abs() <= MOST_OF_MEAN) & (change.abs().mean(-1) <= MOST_OF_PIXELS)
    still &= explained <= MOST_MOVED * change.square().sum(-1)
    if still.sum() < FEWEST_STILL * changed.sum():
        return nowhere
    nowhere[:height, :width] = still.repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1)
    return nowhere


def _blocks(plane: Tensor) -> Tensor:
    """Return the pixels of each block of a plane (h,w): (h/8, w/8, 64)."""
    return plane.unfold(0, BLOCK, BLOCK).unfold(1, BLOCK, BLOCK).flatten(-2)
