"""Networks that subtract a mean and work in a range of their own: EDSR, RCAN, CARN."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import nn

from compressor.errors import UsageError
from compressor.networks.base import Network, Spec
from compressor.networks.layers import DIV2K_MEAN, MeanShift, Upsampler


@dataclass(frozen=True)
class ShiftedSpec(Spec):
    """`mean_shift="file"`: the official 1×1 convolutions are kept as the checkpoint had them."""

    mean: tuple[float, ...] = field(default=DIV2K_MEAN, kw_only=True)
    img_range: float = field(default=255.0, kw_only=True)
    mean_shift: str = field(default="constant", kw_only=True)

    def __post_init__(self) -> None:
        if self.mean_shift not in ("constant", "file"):
            raise UsageError(f"{self.arch}: mean_shift={self.mean_shift!r} is neither 'constant' nor 'file'")
        if not self.img_range > 0:
            raise UsageError(f"{self.arch}: img_range={self.img_range:g} is not above 0")


def mean_shifts(spec: ShiftedSpec) -> tuple[MeanShift, MeanShift]:
    """Into the network's range, and back to [0,1]."""
    from_file = spec.mean_shift == "file"
    enter = MeanShift(spec.mean, spec.img_range, leave=False, from_file=from_file)
    return enter, MeanShift(spec.mean, spec.img_range, leave=True, from_file=from_file)


class LongSkipNetwork(Network):
    """The frame of EDSR and RCAN: a head before the blocks; convolution, long skip, upsampler and tail behind them."""

    sub_mean: MeanShift
    add_mean: MeanShift
    head: nn.Conv2d
    body_end: nn.Conv2d
    upsampler: Upsampler
    tail: nn.Conv2d

    def stem(self, lr: torch.Tensor) -> torch.Tensor:
        shallow: torch.Tensor = self.head(self.sub_mean(lr))
        return shallow

    def finish(self, feature: torch.Tensor, shallow: torch.Tensor, lr: torch.Tensor) -> torch.Tensor:
        sr: torch.Tensor = self.add_mean(self.tail(self.upsampler(self.body_end(feature) + shallow)))
        return sr
