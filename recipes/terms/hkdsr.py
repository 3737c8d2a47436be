"""HKDSR's two terms: high Haar bands of student and teacher (FSM), and a label fused of ground truth and teacher (ACF).

FSM, on one level of the Haar transform:

    of each 2×2 block a b / c d:   (a+b+c+d)/2 | (a+b-c-d)/2, (a-b+c-d)/2, (a-b-c+d)/2
    bands      Σ over the three high bands of L1(band(S), band(T))
    matrix     Σ over them of mean |M(S) - M(T)|,   M(I) = DWT(I)ᵀ · DWT(y), N×N over RGB

HKDSR (wslgqq277g/HKDSR): basicsr/losses/basic_loss.py (WaveLoss, SimLoss), sr_l1_model.py. Order, signs and the zero
padding of odd sizes are those of pytorch_wavelets' DWTForward(mode="zero", wave="haar"); orthonormal.

- The abstract has similarity matrices with the ground truth; the newest code has the direct L1 of high bands. We take
  the bands by default. M is of second degree in the image range, the bands of first.
- SimLoss pairs level-1 bands (label given with one level) or also level 2; M at level 1 of a 192×192 patch is 324 MiB
  a band and sample, so a method takes random windows of 24×24 of each band (`window`).

ACF:

    q = softmax(sigmoid(V₂·ReLU(V₁·GAP(concat(y, T))))) ∈ R²,   Z = q₀·y + q₁·T,   V₁: 6 → 96, V₂: 96 → 2

Code followed: basic_loss.py (AdaptLoss_nochannel). Sigmoid before softmax keeps each share in [1/(1+e), e/(1+e)] =
[0.269, 0.731]. The gate learns through Z, so its parameters belong into the optimiser. Its input is an image in [0,1].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from compressor.base.randomness import crop_each, random_positions, torch_seed
from recipes.terms.distances import full_precision, sample_l1, widen

WINDOW = 24


class Bands(NamedTuple):
    """The low band, and the three high ones in the order of the code: rows, columns, diagonals."""

    low: torch.Tensor
    high: tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def haar(images: torch.Tensor) -> Bands:
    """Transform one level; (B,C,⌈h/2⌉,⌈w/2⌉) a band, odd sizes padded with zeros at the end."""
    x = widen(images)
    x = F.pad(x, (0, x.shape[-1] % 2, 0, x.shape[-2] % 2))
    a, b = x[..., 0::2, 0::2], x[..., 0::2, 1::2]
    c, d = x[..., 1::2, 0::2], x[..., 1::2, 1::2]
    high = ((a + b - c - d) / 2, (a - b + c - d) / 2, (a - b - c + d) / 2)
    return Bands((a + b + c + d) / 2, high)


def band_l1(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Return Σ over the three high bands of L1, for each sample, (B,)."""
    pairs = zip(haar(student).high, haar(teacher).high, strict=True)
    return torch.stack([sample_l1(*pair) for pair in pairs]).sum(0)


def matrix_l1(student: torch.Tensor, teacher: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Return mean |M(S) - M(T)| of one band, for each sample, (B,). M is linear in the image: one product is enough."""
    with full_precision(student):
        difference = (widen(student) - widen(teacher)).flatten(2)
        product = difference.transpose(1, 2) @ widen(label).flatten(2)
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
    """Return Σ over the three high bands of the matrix form on a random window of each, (B,).

    The window is the same for S, T and y, another one for each sample and band; small bands are taken whole.
    """
    transformed = [haar(images).high for images in (student, teacher, label)]
    height, width = transformed[0][0].shape[-2:]
    size = min(window, height), min(window, width)
    corners = random_positions("hkdsr-windows", seed, step, samples, (height - size[0], width - size[1]), draws=3)
    distances = [matrix_l1(*(crop_each(bands[k], corners[k], *size) for bands in transformed)) for k in range(3)]
    return torch.stack(distances).sum(0)


class FusionGate(nn.Module):
    """V₁ and V₂; one gate for each output of the network."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(2 * channels, 32 * channels, 1)
        self.choose = nn.Conv2d(32 * channels, 2, 1)

    def shares(self, hr: torch.Tensor, teacher_sr: torch.Tensor) -> torch.Tensor:
        """Return q, (B,2,1,1): the share of the ground truth, then the teacher's."""
        with full_precision(hr):
            pooled = torch.cat((widen(hr), widen(teacher_sr)), 1).mean((2, 3), keepdim=True)
            return torch.softmax(torch.sigmoid(self.choose(torch.relu(self.squeeze(pooled)))), 1)

    def forward(self, hr: torch.Tensor, teacher_sr: torch.Tensor) -> torch.Tensor:
        """Return Z; its gradient reaches the gate alone, as ground truth and teacher have none."""
        shares = self.shares(hr, teacher_sr)
        return shares[:, :1] * hr + shares[:, 1:] * teacher_sr


def fusion_gate(channels: int = 3, *, seed: int) -> FusionGate:
    with torch_seed(seed):
        return FusionGate(channels)
