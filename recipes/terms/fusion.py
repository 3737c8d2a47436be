"""HKDSR's adaptive fusion (ACF): the label that a gate mixes from ground truth and teacher.

    q = softmax(sigmoid(V₂·ReLU(V₁·GAP(concat(y, T))))) ∈ R²,   Z = q₀·y + q₁·T,   V₁: 6 → 96, V₂: 96 → 2

Code followed: wslgqq277g/HKDSR, basicsr/losses/basic_loss.py (AdaptLoss_nochannel). Sigmoid before softmax keeps each
share in [1/(1+e), e/(1+e)] = [0.269, 0.731]. The gate learns through Z, so its parameters belong into the optimiser.
Its input is an image in [0,1].
"""

from __future__ import annotations

import torch
from torch import nn

from recipes.terms.initialised import initialised
from recipes.terms.precision import full_precision, widened


class FusionGate(nn.Module):
    """V₁ and V₂; one gate for each output of the network."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(2 * channels, 32 * channels, 1)
        self.choose = nn.Conv2d(32 * channels, 2, 1)

    def shares(self, hr: torch.Tensor, teacher_sr: torch.Tensor) -> torch.Tensor:
        """q, (B,2,1,1): the share of the ground truth, then the teacher's."""
        with full_precision(hr):
            pooled = torch.cat((widened(hr), widened(teacher_sr)), 1).mean((2, 3), keepdim=True)
            return torch.softmax(torch.sigmoid(self.choose(torch.relu(self.squeeze(pooled)))), 1)

    def forward(self, hr: torch.Tensor, teacher_sr: torch.Tensor) -> torch.Tensor:
        """Z; its gradient reaches the gate alone, as ground truth and teacher have none."""
        shares = self.shares(hr, teacher_sr)
        return shares[:, :1] * hr + shares[:, 1:] * teacher_sr


def fusion_gate(channels: int = 3, *, seed: int) -> FusionGate:
    return initialised(seed, lambda: FusionGate(channels))
