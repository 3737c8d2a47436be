"""Parts shared by EDSR, RCAN and CARN: a mean shift, a value range of their own, and the naming of layers in files."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from compressor.base.errors import UsageError
from compressor.models.networks.base import Network, Spec, require_positive
from compressor.models.networks.dialect import (
    Assumption,
    Dialect,
    NotedState,
    Reading,
    State,
    has_tensors,
    named,
    read_mean_shift,
    rows,
    weight_and_bias,
)
from compressor.models.networks.layers import (
    DIV2K_MEAN,
    DIV_FLICKR_MEAN,
    MeanShift,
    Upsampler,
    conv3,
    scale_from_upsampler,
    upsampler_factors,
)
from compressor.models.networks.linear_plan import FeatureStream, LinearLayer, LinearPlan, SpaceKind, Tap


@dataclass(frozen=True)
class ShiftedSpec(Spec):
    """The spec of a network that subtracts a mean and works in a value range of its own.

    `mean_shift="file"`: the official 1×1 convolutions are kept as in the checkpoint. An `Upsampler` ends the network.
    """

    mean: tuple[float, ...] = field(default=DIV2K_MEAN, kw_only=True)
    img_range: float = field(default=255.0, kw_only=True)
    mean_shift: str = field(default="constant", kw_only=True)
    width: int = 64

    def __post_init__(self) -> None:
        require_positive(self, "width")
        upsampler_factors(self.scale)
        if self.mean_shift not in ("constant", "file"):
            raise UsageError(f"{self.arch}: mean_shift={self.mean_shift!r} is neither 'constant' nor 'file'")
        if not self.img_range > 0:
            raise UsageError(f"{self.arch}: img_range={self.img_range:g} is not above 0")

    @property
    def undetectable(self) -> Mapping[str, tuple[Any, ...]]:
        constant = self.mean_shift == "constant"
        # The reversed mean belongs to a code base that reads images with OpenCV and trains on them as RGB.
        means = (DIV2K_MEAN, DIV_FLICKR_MEAN, DIV2K_MEAN[::-1], (0.0, 0.0, 0.0)) if constant else ()
        return {"img_range": (1.0, 255.0) if constant else (), "mean": means, "mean_shift": ()}


def mean_shifts(spec: ShiftedSpec) -> tuple[MeanShift, MeanShift]:
    from_file = spec.mean_shift == "file"
    enter = MeanShift(spec.mean, spec.img_range, leave=False, from_file=from_file)
    return enter, MeanShift(spec.mean, spec.img_range, leave=True, from_file=from_file)


class LongSkipNetwork(Network):
    """EDSR and RCAN: a head, repeated modules, then a convolution, the long skip, the upsampler and a tail."""

    def __init__(self, spec: ShiftedSpec, modules: Iterator[nn.Module]) -> None:
        """`modules` are made between head and body_end: layers draw their random weights in this order."""
        super().__init__()
        self.spec = spec
        self.sub_mean, self.add_mean = mean_shifts(spec)
        self.head = conv3(3, spec.width)
        self.add_module(self.repeated, nn.Sequential(*modules))
        self.body_end = conv3(spec.width, spec.width)
        self.upsampler = Upsampler(spec.scale, spec.width)
        self.tail = conv3(spec.width, 3)

    def stem(self, lr: torch.Tensor) -> torch.Tensor:
        return super().stem(self.sub_mean(lr))

    def finish(self, feature: torch.Tensor, shallow: torch.Tensor, lr: torch.Tensor) -> torch.Tensor:
        sr: torch.Tensor = self.add_mean(self.tail(self.upsampler(self.body_end(feature) + shallow)))
        return sr

    def tail_output(self, image: torch.Tensor, lr: torch.Tensor) -> torch.Tensor:
        return self.add_mean.undo(image)


def long_skip_axes(scale: int) -> dict[str, tuple[str, ...]]:
    return {
        "head": ("width", "rgb"),
        "body_end": ("width", "width"),
        "upsampler.convs.*": (f"width * {upsampler_factors(scale)[0] ** 2}", "width"),
        "tail": ("rgb", "width"),
    }


def long_skip_plan(
    scale: int,
    stream: SpaceKind,
    body: Iterable[LinearLayer],
    hidden: Iterable[str],
    stages: Iterable[str],
    states: Iterable[tuple[Tap, ...]],
    units: Iterable[tuple[str, ...]],
) -> LinearPlan:
    """Return the linear plan of a head, the layers of a body, and what follows it: each shuffle's output is linear.

    `hidden` are the spaces of units in the body. The features that a student follows are the head's, and `states`; on
    the way from each of them are the `units`, before ReLU.
    """
    levels = ["stream", *(f"upsampler.level.{k}" for k in range(len(upsampler_factors(scale))))]
    end, states, units = Tap("upsampler", "input"), tuple(states), tuple(units)
    layers = [LinearLayer("head", ("lr",), "stream"), *body, LinearLayer("body_end", ("stream",), "stream", at=end)]
    layers += [LinearLayer(f"upsampler.convs.{k}", (a,), b) for k, (a, b) in enumerate(pairwise(levels))]
    layers.append(LinearLayer("tail", (levels[-1],), "sr"))
    kinds: dict[str, SpaceKind] = {"lr": "fixed", "stream": stream, "sr": "fixed", **dict.fromkeys(hidden, "units")}
    kinds |= dict.fromkeys(levels[1:], "linear")
    followed = FeatureStream(((Tap("head"),) * len(states[0]), *states), units, (end,))
    slopes = {space: 0.0 for spaces in units for space in spaces}
    return LinearPlan(tuple(layers), kinds, tuple(stages), slopes=slopes, stream=followed, image_layers=len(levels))


def mean_shift_layers(spec: ShiftedSpec, suffix: str = "") -> dict[str, str]:
    """Return the layers of a mean shift taken from the file, by both names."""
    return {name: f"{name}{suffix}" for name in ("sub_mean", "add_mean")} if spec.mean_shift == "file" else {}


def constant_mean_shift(spec: ShiftedSpec, suffix: str = "") -> NotedState:
    """Return the mean-shift tensors that the official code derives from the constants; others are among the weights."""
    tensors: dict[str, torch.Tensor] = {}
    if spec.mean_shift == "constant":
        for name, leave in (("sub_mean", False), ("add_mean", True)):
            shift = MeanShift(spec.mean, spec.img_range, leave=leave, from_file=True)
            tensors |= {f"{name}{suffix}.weight": shift.weight, f"{name}{suffix}.bias": shift.bias}
    return tensors, ()


def is_mean_shift(name: str) -> bool:
    return name.startswith(("sub_mean.", "add_mean."))


BASICSR_RANGE = (
    Assumption("img_range", 255.0, "not in the file; BasicSR's default"),
    Assumption("mean", DIV2K_MEAN, "not in the file; BasicSR's default, the mean of DIV2K"),
)

OFFICIAL_ENDS = {"head": "head.0", "tail": "tail.1", "upsampler.convs.{k}": "tail.0.{2*k}"}
BASICSR_ENDS = {
    "head": "conv_first",
    "body_end": "conv_after_body",
    "tail": "conv_last",
    "upsampler.convs.{k}": "upsample.{2*k}",
}
CSD_ENDS = {"body_end": "body_conv", "tail": "tail_conv", "upsampler.convs.{k}": "upsampler.blocks.{k}"}
"""What code bases call the layers around the blocks of EDSR and of RCAN."""


def long_skip_dialect(
    name: str,
    layers: Mapping[str, str],
    sizes: Callable[[State], tuple[Mapping[str, Any], tuple[Assumption, ...]]],
    counts: Callable[[Any], Mapping[str, int]],
    *code_bases: str,
    marks: tuple[str, ...],
    mean_in_file: bool = True,
    fixed: Mapping[str, Any] | None = None,
    **options: Any,
) -> Dialect:
    """Return a dialect of EDSR or RCAN, whose files hold tensors named `marks` and name their `layers` so (`named`).

    `sizes` reads the fields beside width, scale, range and mean; `counts` are the numbers of layers of a spec. Files
    without a mean shift belong to a code base that only supports the constant one.
    """
    before, after = map(re.escape, re.split(r"\{.+\}", layers["upsampler.convs.{k}"]))

    def read(state: State, scale: int | None) -> Reading:
        fields, assumed = sizes(state)
        width = rows(state, f"{layers['head']}.weight")
        steps = sorted(tensor for tensor in state if re.fullmatch(rf"{before}[0-9]+{after}\.weight", tensor))
        scale = scale_from_upsampler([rows(state, tensor) for tensor in steps], width)
        fields = {"width": width, "scale": scale, **fields}
        if not mean_in_file:
            return Reading(fields, (*assumed, *BASICSR_RANGE))
        shift = read_mean_shift(state)
        return Reading({**fields, **shift.fields}, assumed, shift.notes)

    def names(spec: Any, in_file: set[str]) -> dict[str, str]:
        found = named(layers, k=len(upsampler_factors(spec.scale)), **counts(spec))
        return weight_and_bias(found | mean_shift_layers(spec))

    dialect = Dialect(name, has_tensors(*marks), read, names, is_mean_shift, code_bases, fixed=fixed or {}, **options)
    if mean_in_file:
        return replace(dialect, companions=constant_mean_shift)
    return replace(dialect, surplus=lambda name: False, fixed={**dialect.fixed, "mean_shift": "constant"})
