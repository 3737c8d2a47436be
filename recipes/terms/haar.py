"""The high bands of Haar's wavelet transform, orthonormal: rows, columns, diagonals."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from recipes.terms.distances import widen


def high_bands(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the high bands, (B,C,⌈h/2⌉,⌈w/2⌉), in the order of HKDSR's code: rows, columns, diagonals.

    Odd sizes are padded with zeros at the end.
    """
    x = widen(images)
    x = F.pad(x, (0, x.shape[-1] % 2, 0, x.shape[-2] % 2))
    a, b = x[..., 0::2, 0::2], x[..., 0::2, 1::2]
    c, d = x[..., 1::2, 0::2], x[..., 1::2, 1::2]
    return (a + b - c - d) / 2, (a - b + c - d) / 2, (a - b - c + d) / 2


def low_band(images: torch.Tensor) -> torch.Tensor:
    """Return the low band, (B,C,⌈h/2⌉,⌈w/2⌉): twice the means of 2×2 pixels. Odd sizes are padded with zeros."""
    x = widen(images)
    return 2 * F.avg_pool2d(F.pad(x, (0, x.shape[-1] % 2, 0, x.shape[-2] % 2)), 2)
