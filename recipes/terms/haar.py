"""One level of the Haar transform, and HKDSR's two ways to compare high bands.

    of each 2×2 block a b / c d:   (a+b+c+d)/2 | (a+b-c-d)/2, (a-b+c-d)/2, (a-b-c+d)/2
    bands      Σ over the three high bands of L1(band(S), band(T))
    matrix     Σ over them of mean |M(S) - M(T)|,   M(I) = DWT(I)ᵀ · DWT(y), N×N over RGB

HKDSR (wslgqq277g/HKDSR): basicsr/losses/basic_loss.py (WaveLoss, SimLoss), sr_l1_model.py. Order, signs and the zero
padding of odd sizes are those of pytorch_wavelets' DWTForward(mode="zero", wave="haar"); orthonormal.

- The abstract has similarity matrices with the ground truth; the newest code has the direct L1 of high bands. We take
  the bands by default. M is of second degree in the image range, the bands of first.
- SimLoss pairs level-1 bands (label given with one level) or also level 2; M at level 1 of a 192×192 patch is 324 MiB
  a band and sample, so a method takes random windows of 24×24 of each band (`window`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch.nn import functional as F

from compressor.base.randomness import crop_each, places
from recipes.terms.precision import full_precision, widened

WINDOW = 24


class Bands(NamedTuple):
    """The low band, and the three high ones in the order of the code: rows, columns, diagonals."""

    low: torch.Tensor
    high: tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def haar(images: torch.Tensor) -> Bands:
    """One level; (B,C,⌈h/2⌉,⌈w/2⌉) a band, odd sizes padded with zeros at the end."""
    x = widened(images)
    x = F.pad(x, (0, x.shape[-1] % 2, 0, x.shape[-2] % 2))
    a, b = x[..., 0::2, 0::2], x[..., 0::2, 1::2]
    c, d = x[..., 1::2, 0::2], x[..., 1::2, 1::2]
    high = ((a + b - c - d) / 2, (a - b + c - d) / 2, (a - b - c + d) / 2)
    return Bands((a + b + c + d) / 2, high)


def haar_levels(images: torch.Tensor, levels: int) -> list[torch.Tensor]:
    """The coarsest low band, then the three high bands of each level, the finest first."""
    low, high = images, list[torch.Tensor]()
    for _ in range(levels):
        bands = haar(low)
        low = bands.low
        high += bands.high
    return [low, *high]


def band_l1(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Σ over the three high bands of L1, for each sample, (B,)."""
    pairs = zip(haar(student).high, haar(teacher).high, strict=True)
    return torch.stack([(ours - theirs).abs().flatten(1).mean(1) for ours, theirs in pairs]).sum(0)


def matrix_l1(student: torch.Tensor, teacher: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """mean |M(S) - M(T)| of one band, for each sample, (B,). M is linear in the image: one product is enough."""
    with full_precision(student):
        difference = (widened(student) - widened(teacher)).flatten(2)
        product = difference.transpose(1, 2) @ widened(label).flatten(2)
        return product.abs().flatten(1).mean(1)


def windowed_matrix_l1(
    student: torch.Tensor,
    teacher: torch.Tensor,
    label: torch.Tensor,
    *,
    seed: int,
    step: int,
    samples: Sequence[int],
    window: int = WINDOW,
) -> torch.Tensor:
    """Σ over the three high bands of the matrix form on a random window of each, (B,); small bands are taken whole.

    The window is the same for S, T and y, another one for each sample and band.
    """
    transformed = [haar(images).high for images in (student, teacher, label)]
    height, width = transformed[0][0].shape[-2:]
    size = min(window, height), min(window, width)
    where = places("hkdsr-windows", seed, step, samples, (height - size[0], width - size[1]), draws=3)
    distances = [matrix_l1(*(crop_each(bands[k], where[k], *size) for bands in transformed)) for k in range(3)]
    return torch.stack(distances).sum(0)
