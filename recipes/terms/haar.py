"""The high bands of Haar's wavelet transform, orthonormal: rows, columns, diagonals."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from recipes.terms.distances import widen


def high_bands(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the high bands, (B,C,⌈h/2⌉,⌈w/2⌉), in the order of HKDSR's code: rows, columns, diagonals.

    Odd sizes are padded with zeros at the end.
    """
    x = _even(images)
    a, b = x[..., 0::2, 0::2], x[..., 0::2, 1::2]
    c, d = x[..., 1::2, 0::2], x[..., 1::2, 1::2]
    return (a + b - c - d) / 2, (a - b + c - d) / 2, (a - b - c + d) / 2


def low_band(images: torch.Tensor) -> torch.Tensor:
    """Return the low band, (B,C,⌈h/2⌉,⌈w/2⌉): twice the means of 2×2 pixels. Odd sizes are padded with zeros."""
    return 2 * F.avg_pool2d(_even(images), 2)


def _even(images: torch.Tensor) -> torch.Tensor:
    return F.pad(widen(images), (0, images.shape[-1] % 2, 0, images.shape[-2] % 2))
