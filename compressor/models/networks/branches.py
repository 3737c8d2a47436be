"""A 3×3 convolution that is trained as a sum of branches, and runs as the one convolution that they collapse to."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import nn
from torch.nn import functional as F

from compressor.models.networks.collapse import Kernel, in_parallel, in_series
from compressor.models.networks.layers import conv3

EXPANSION = 2
"""Channels in the longest branch for each of the layer's, as in Conv3XC of SPAN and the re-parameterised ECBSR."""


class BranchedConv(nn.Module):
    """The sum of a 3×3, a 1×1 and a 1×1 → 3×3 → 1×1 convolution, and of the input itself if `identity`.

    The branches are linear, so their kernels are summed first and one convolution runs: training takes hardly more time
    than without branches. Borders are those of branches that read one padded input, as Conv3XC's do.
    """

    def __init__(self, inputs: int, outputs: int, *, identity: bool) -> None:
        super().__init__()
        self.identity = identity
        self.main = conv3(inputs, outputs)
        self.point = nn.Conv2d(inputs, outputs, 1)
        self.expand = nn.Conv2d(inputs, EXPANSION * inputs, 1)
        self.middle = nn.Conv2d(EXPANSION * inputs, EXPANSION * outputs, 3)
        self.project = nn.Conv2d(EXPANSION * outputs, outputs, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # The sum is of the weights' own precision, whatever the convolution computes in.
        with nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False):
            weight, bias = in_parallel(_kernel(self.main), *self._others())
        return F.conv2d(x, weight, bias, padding=1)

    def collapsed(self) -> Kernel:
        """Return the kernel of the convolution that computes the same, in float64."""
        return in_parallel(_kernel(self.main, torch.float64), *self._others(torch.float64))

    def fill(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        """Set the 3×3 branch so that all branches together are this convolution."""
        others = in_parallel(*self._others(torch.float64))
        self.main.weight.copy_(weight - others.weight)
        assert self.main.bias is not None
        self.main.bias.copy_(bias - others.bias)

    def _others(self, dtype: torch.dtype | None = None) -> list[Kernel]:
        chain = (self.expand, self.middle, self.project)
        branches = [_kernel(self.point, dtype), in_series(*(_kernel(conv, dtype) for conv in chain))]
        if self.identity:
            bias = torch.zeros_like(branches[0].bias)
            branches.append(Kernel(torch.diag(bias + 1)[:, :, None, None], bias))
        return branches


def _kernel(conv: nn.Conv2d, dtype: torch.dtype | None = None) -> Kernel:
    assert conv.bias is not None
    return Kernel(conv.weight.to(dtype), conv.bias.to(dtype))
