"""Low-resolution patches on which features are measured."""

from __future__ import annotations

import torch

from compressor.images.files import read_rgb_u8
from compressor.images.resize import downscale_u8, mod_crop
from compressor.images.sets import embedded_photos

PATCH = 48
"""Side of a low-resolution patch, in pixels."""

COUNT = 64
"""Number of patches of a fit: twice as many gain about 0.01 dB."""

CANDIDATES = 4
"""Number of candidates per patch, of which the most textured is used: flat ones reveal little about a network."""


def texture_of(patches: torch.Tensor) -> torch.Tensor:
    """Return for each patch of (N, C, H, W) the sum of absolute differences of neighbours; for uint8 it is exact."""
    values = patches if patches.is_floating_point() else patches.int()
    return values.diff(dim=2).abs().sum((1, 2, 3)) + values.diff(dim=3).abs().sum((1, 2, 3))


def embedded_patches(scale: int, channels: int = 3) -> torch.Tensor:
    """Return patches of the embedded training photos, downscaled by the scale, side by side without overlap."""
    patches = []
    for path in embedded_photos("train").values():
        lr = downscale_u8(mod_crop(read_rgb_u8(path), scale), scale)[:channels].float().div(255)
        side = min(PATCH, *lr.shape[-2:])
        tiles = lr.unfold(1, side, side).unfold(2, side, side)
        patches.append(tiles.permute(1, 2, 0, 3, 4).reshape(-1, channels, side, side))
    side = min(patch.shape[-1] for patch in patches)
    return torch.cat([patch[..., :side, :side] for patch in patches])
