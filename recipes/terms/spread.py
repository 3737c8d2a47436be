"""How much a number of each sample varies over a run: the standard deviation that FACD-style's soft gate divides by.

Mean and mean square over all samples of the steps so far and, from HORIZON steps on, exponential ones of that length.
[choice] A step's own samples count in it, so that the first step has one too.
"""

from __future__ import annotations

import torch
from torch import nn

HORIZON = 100


class RunningSpread(nn.Module):
    """The moments are a buffer: saved with a method's modules, and so the same in a resumed run."""

    moments: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("moments", torch.zeros(3))

    def with_values(self, values: torch.Tensor) -> torch.Tensor:
        """Steps seen, mean and mean square, as they are with one more step's values."""
        steps, mean, square = self.moments.unbind()
        steps, values = steps + 1, values.detach().to(mean.dtype)
        share = 1 / steps.clamp_max(HORIZON)
        return torch.stack([steps, mean.lerp(values.mean(), share), square.lerp(values.square().mean(), share)])

    def become(self, moments: torch.Tensor) -> None:
        self.moments.copy_(moments)

    @staticmethod
    def deviation(moments: torch.Tensor) -> torch.Tensor:
        _, mean, square = moments.unbind()
        return (square - mean.square()).clamp_min(0).sqrt()
