"""Auxiliary heads of DS and CLSD-style: an image from an intermediate feature, in training only.

    P(F) = mean + conv(up( conv(B₅(…B₁(F))) + F_head ))/range,   B: EDSR's residual block of 64 channels, res_scale 1

Five blocks of 64 channels: CLSD's paper ("PH"). [choice] The tail (long skip, own upsampler, last convolution, mean)
is that of EDSR. [choice] Where the student has not 64 channels, a 1×1 convolution each brings F and F_head there: the
heads of a slice are as strong as those of its teacher. Range and mean are the student's own, since its features live
on that scale; a network without a mean gets DIV2K's.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from compressor.base.randomness import torch_seed
from compressor.models.networks.base import Network
from compressor.models.networks.edsr import ResidualBlock
from compressor.models.networks.layers import DIV2K_MEAN, MeanShift, Upsampler

WIDTH = 64
BLOCKS = 5


class AuxiliaryHead(nn.Module):
    """P. Never exported and never counted: it lives with the method, not in the network."""

    def __init__(self, channels: int, scale: int, *, img_range: float, mean: Sequence[float] = DIV2K_MEAN) -> None:
        super().__init__()
        self.feature_entry, self.shallow_entry = _entry(channels), _entry(channels)
        self.blocks = nn.Sequential(*(ResidualBlock(WIDTH, 1.0) for _ in range(BLOCKS)))
        self.body_end = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.upsampler = Upsampler(scale, WIDTH)
        self.tail = nn.Conv2d(WIDTH, len(mean), 3, padding=1)
        self.add_mean = MeanShift(mean, img_range, leave=True, from_file=False)

    def forward(self, feature: torch.Tensor, shallow: torch.Tensor) -> torch.Tensor:
        """The image in [0,1] of a tap's feature and the network's `head` feature."""
        deep = self.body_end(self.blocks(self.feature_entry(feature))) + self.shallow_entry(shallow)
        sr: torch.Tensor = self.add_mean(self.tail(self.upsampler(deep)))
        return sr


def auxiliary_head(network: Network, *, seed: int) -> AuxiliaryHead:
    """The head that fits a network's features: its width, scale, range and mean."""
    spec, channels = network.spec, network.descriptor.channels
    mean = getattr(spec, "mean", DIV2K_MEAN if channels == 3 else (0.0,))
    img_range = float(getattr(spec, "img_range", 1.0))
    width = int(getattr(spec, "width"))  # noqa: B009 - every network with taps has one, the base class has not
    with torch_seed(seed):
        return AuxiliaryHead(width, spec.scale, img_range=img_range, mean=mean)


def _entry(channels: int) -> nn.Module:
    return nn.Identity() if channels == WIDTH else nn.Conv2d(channels, WIDTH, 1)
