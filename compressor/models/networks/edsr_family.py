"""The parts that EDSR, RCAN and CARN share: a mean shift, a range of their own, and the names of both in files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from compressor.base.errors import UsageError
from compressor.models.networks.base import Network, Spec
from compressor.models.networks.dialect import Assumption, Companions, Reading, State, read_mean_shift, rows
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
    """The spec of a network that subtracts a mean and works in a range of its own.

    `mean_shift="file"`: the official 1×1 convolutions are kept as the checkpoint had them.
    """

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
        constant = self.mean_shift == "constant"
        ranges, means = ((1.0, 255.0), (DIV2K_MEAN, DIV_FLICKR_MEAN)) if constant else ((), ())
        return {"img_range": ranges, "mean": means, "mean_shift": ()}


def mean_shifts(spec: ShiftedSpec) -> tuple[MeanShift, MeanShift]:
    """Return the layers that lead into the network's range, and back to [0,1]."""
    from_file = spec.mean_shift == "file"
    enter = MeanShift(spec.mean, spec.img_range, leave=False, from_file=from_file)
    return enter, MeanShift(spec.mean, spec.img_range, leave=True, from_file=from_file)


class LongSkipNetwork(Network):
    """EDSR and RCAN without their blocks: a head before these; convolution, long skip, upsampler and tail behind."""

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


BASICSR_RANGE = (
    Assumption("img_range", 255.0, "not in the file; BasicSR's default"),
    Assumption("mean", DIV2K_MEAN, "not in the file; BasicSR's default, the mean of DIV2K"),
)


def read_with_range(
    state: State, fields: Mapping[str, Any], assumed: tuple[Assumption, ...], *, mean_in_file: bool
) -> Reading:
    """Add range and mean to the fields: from the file's mean-shift tensors, or as the defaults of BasicSR."""
    if not mean_in_file:
        return Reading(fields, (*assumed, *BASICSR_RANGE))
    shift = read_mean_shift(state)
    return Reading({**fields, **shift.fields}, assumed, shift.notes)


def upsampler_scale(state: State, prefix: str, width: int) -> int:
    """Read the scale from the convolutions `prefix.<number>`, in the order of their numbers."""
    pattern = re.escape(prefix) + r"\.([0-9]+)\.weight"
    numbers = sorted(int(match.group(1)) for name in state if (match := re.fullmatch(pattern, name)))
    return scale_from_upsampler([rows(state, f"{prefix}.{number}.weight") for number in numbers], width)


def upsampler_layers(scale: int, prefix: str, step: int) -> list[tuple[str, str]]:
    """Return the upsampler's convolutions by both names; the file numbers them in steps, as shuffles stand between."""
    return [(f"upsampler.convs.{k}", f"{prefix}.{k * step}") for k in range(len(upsampler_factors(scale)))]


def mean_shift_layers(spec: ShiftedSpec, suffix: str = "") -> list[tuple[str, str]]:
    """Return the layers of a mean shift that the file brought, by both names."""
    return [(name, f"{name}{suffix}") for name in ("sub_mean", "add_mean")] if spec.mean_shift == "file" else []


def constant_mean_shift(spec: ShiftedSpec, suffix: str = "") -> Companions:
    """Return the mean-shift tensors that the official code makes of the constants; others are among the weights."""
    tensors: dict[str, torch.Tensor] = {}
    if spec.mean_shift == "constant":
        for name, leave in (("sub_mean", False), ("add_mean", True)):
            shift = MeanShift(spec.mean, spec.img_range, leave=leave, from_file=True)
            tensors |= {f"{name}{suffix}.weight": shift.weight, f"{name}{suffix}.bias": shift.bias}
    return Companions(tensors)


def is_mean_shift(name: str) -> bool:
    return name.startswith(("sub_mean.", "add_mean."))
