"""Low-resolution patches for fits."""

from __future__ import annotations

import torch


def patches(count: int = 8, side: int = 20, seed: int = 4) -> torch.Tensor:
    """Return smooth noise: neighbouring pixels are alike, as in photos."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, side // 4 + 2, side // 4 + 2, generator=generator)
    fine = torch.rand(count, 3, side, side, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bicubic", align_corners=False)
    return (0.8 * smooth + 0.2 * fine).clamp(0, 1)
