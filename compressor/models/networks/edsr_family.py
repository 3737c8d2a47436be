"""Networks that subtract a mean and work in a range of their own: EDSR, RCAN, CARN.

What the EDSR and RCAN files of one code base have in common: mean shift, upsampler, published defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from compressor.base.errors import UsageError
from compressor.models.networks.base import Network, Spec
from compressor.models.networks.dialect import Assumption, Reading, State, read_mean_shift, rows
from compressor.models.networks.layers import (
    DIV2K_MEAN,
    DIV_FLICKR_MEAN,
    MeanShift,
    Upsampler,
    scale_from_upsampler,
    upsampler_factors,
)


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

    @property
    def undetectable(self) -> Mapping[str, tuple[Any, ...]]:
        if self.mean_shift == "file":
            return {}
        return {"img_range": (1.0, 255.0), "mean": (DIV2K_MEAN, DIV_FLICKR_MEAN)}


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


BASICSR_BOUNDARY = (
    Assumption("img_range", 255.0, "not in the file; BasicSR's default"),
    Assumption("mean", DIV2K_MEAN, "not in the file; BasicSR's default, the mean of DIV2K"),
)


def boundary(
    state: State, fields: Mapping[str, Any], assumed: tuple[Assumption, ...], *, mean_in_file: bool
) -> Reading:
    """A reading with range and mean: from the file's mean-shift tensors, or the lineage's defaults, said aloud."""
    if not mean_in_file:
        return Reading(fields, (*assumed, *BASICSR_BOUNDARY))
    shift = read_mean_shift(state)
    return Reading({**fields, **shift.fields}, assumed, shift.notes)


def upsampler_scale(state: State, prefix: str, width: int) -> int:
    """Scale from the convolutions `prefix.<number>`, in the order of their numbers."""
    numbers = sorted(int(name[len(prefix) + 1 : -7]) for name in state if _is_conv(name, prefix))
    return scale_from_upsampler([rows(state, f"{prefix}.{number}.weight") for number in numbers], width)


def _is_conv(name: str, prefix: str) -> bool:
    return name.startswith(f"{prefix}.") and name.endswith(".weight") and name[len(prefix) + 1 : -7].isdigit()


def upsampler_layers(scale: int, prefix: str, step: int) -> list[tuple[str, str]]:
    """(ours, theirs) of the upsampler's convolutions; theirs are numbered in steps, as shuffles stand between."""
    return [(f"upsampler.convs.{k}", f"{prefix}.{k * step}") for k in range(len(upsampler_factors(scale)))]


def mean_shift_layers(mean_shift: str) -> list[tuple[str, str]]:
    return [("sub_mean", "sub_mean"), ("add_mean", "add_mean")] if mean_shift == "file" else []


def is_mean_shift(name: str) -> bool:
    return name.startswith(("sub_mean.", "add_mean."))
