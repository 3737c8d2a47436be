"""A network as a chain of convolutions, for targets that hold nothing else, such as shaders.

x ← max(a, 0) + slope·min(a, 0), a = conv3×3(x), for each convolution but the last;
image = pixel shuffle of the last one, plus the input's pixels repeated if it is `anchored`
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class ConvChain:
    convolutions: tuple[nn.Conv2d, ...]
    slopes: tuple[torch.Tensor, ...]
    """Of each convolution but the last: one for all its channels, or one for each."""
    anchored: bool

    @property
    def channels(self) -> int:
        return self.convolutions[0].in_channels

    @property
    def scale(self) -> int:
        return math.isqrt(self.convolutions[-1].out_channels // self.channels)

    @property
    def width(self) -> int:
        """The most channels between two convolutions."""
        return max(conv.out_channels for conv in self.convolutions[:-1])
