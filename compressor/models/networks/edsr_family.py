"""Parts shared by EDSR, RCAN and CARN: a mean shift, a value range of their own, and the naming of layers in files."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import nn

from compressor.base.errors import UsageError
from compressor.models.networks.base import Network, Spec, require_positive
from compressor.models.networks.dialect import (
    Assumption,
    Companions,
    Dialect,
    Reading,
    State,
    Wrapping,
    count,
    has_tensors,
    read_mean_shift,
    rows,
    weight_and_bias,
)
from compressor.models.networks.layers import (
    DIV2K_MEAN,
    DIV_FLICKR_MEAN,
    MeanShift,
    Upsampler,
    scale_from_upsampler,
    upsampler_factors,
)
from compressor.models.networks.linear_plan import LinearLayer, SpaceKind, Tap


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
        ranges = (1.0, 255.0) if constant else ()
        return {"img_range": ranges, "mean": means, "mean_shift": ()}


def mean_shifts(spec: ShiftedSpec) -> tuple[MeanShift, MeanShift]:
    from_file = spec.mean_shift == "file"
    enter = MeanShift(spec.mean, spec.img_range, leave=False, from_file=from_file)
    return enter, MeanShift(spec.mean, spec.img_range, leave=True, from_file=from_file)


class LongSkipNetwork(Network):
    """EDSR and RCAN: a head, repeated modules, then a convolution, the long skip, the upsampler and a tail."""

    repeated: ClassVar[str]
    """The name of the sequence of repeated modules."""

    def __init__(self, spec: ShiftedSpec, modules: Iterator[nn.Module]) -> None:
        """`modules` are made between head and body_end: layers draw their random weights in this order."""
        super().__init__()
        self.spec = spec
        self.sub_mean, self.add_mean = mean_shifts(spec)
        self.head = nn.Conv2d(3, spec.width, 3, padding=1)
        self.add_module(self.repeated, nn.Sequential(*modules))
        self.body_end = nn.Conv2d(spec.width, spec.width, 3, padding=1)
        self.upsampler = Upsampler(spec.scale, spec.width)
        self.tail = nn.Conv2d(spec.width, 3, 3, padding=1)

    def stem(self, lr: torch.Tensor) -> torch.Tensor:
        shallow: torch.Tensor = self.head(self.sub_mean(lr))
        return shallow

    def body(self, feature: torch.Tensor) -> torch.Tensor:
        deep: torch.Tensor = getattr(self, self.repeated)(feature)
        return deep

    def finish(self, feature: torch.Tensor, shallow: torch.Tensor, lr: torch.Tensor) -> torch.Tensor:
        sr: torch.Tensor = self.add_mean(self.tail(self.upsampler(self.body_end(feature) + shallow)))
        return sr

    def tail_output(self, image: torch.Tensor, lr: torch.Tensor) -> torch.Tensor:
        return self.add_mean.undo(image)

    @property
    def taps(self) -> dict[str, Tap]:
        count = len(getattr(self, self.repeated))
        modules = {f"body[{k}]": Tap(f"{self.repeated}.{k}") for k in range(count)}
        return {"head": Tap("head"), **modules, "body_end": Tap("body_end"), "pre_up": Tap("upsampler", "input")}


def long_skip_axes(scale: int) -> dict[str, tuple[str, ...]]:
    """Return the axes of the layers around the repeated modules."""
    return {
        "head": ("width", "rgb"),
        "body_end": ("width", "width"),
        "upsampler.convs.*": (f"width * {upsampler_factors(scale)[0] ** 2}", "width"),
        "tail": ("rgb", "width"),
    }


def long_skip_end(scale: int) -> tuple[list[LinearLayer], dict[str, SpaceKind]]:
    """Return the linear layers after the blocks, and the spaces between them."""
    levels = ["stream", *(f"upsampler.level.{k}" for k in range(len(upsampler_factors(scale))))]
    layers = [LinearLayer("body_end", ("stream",), "stream", at=Tap("upsampler", "input"))]
    layers += [LinearLayer(f"upsampler.convs.{k}", (a,), b) for k, (a, b) in enumerate(pairwise(levels))]
    layers.append(LinearLayer("tail", (levels[-1],), "sr"))
    return layers, dict.fromkeys(levels[1:], "linear")


def mean_shift_layers(spec: ShiftedSpec, suffix: str = "") -> list[tuple[str, str]]:
    """Return the layers of a mean shift taken from the file, by both names."""
    return [(name, f"{name}{suffix}") for name in ("sub_mean", "add_mean")] if spec.mean_shift == "file" else []


def constant_mean_shift(spec: ShiftedSpec, suffix: str = "") -> Companions:
    """Return the mean-shift tensors that the official code derives from the constants; others are among the weights."""
    tensors: dict[str, torch.Tensor] = {}
    if spec.mean_shift == "constant":
        for name, leave in (("sub_mean", False), ("add_mean", True)):
            shift = MeanShift(spec.mean, spec.img_range, leave=leave, from_file=True)
            tensors |= {f"{name}{suffix}.weight": shift.weight, f"{name}{suffix}.bias": shift.bias}
    return Companions(tensors)


def is_mean_shift(name: str) -> bool:
    return name.startswith(("sub_mean.", "add_mean."))


BASICSR_RANGE = (
    Assumption("img_range", 255.0, "not in the file; BasicSR's default"),
    Assumption("mean", DIV2K_MEAN, "not in the file; BasicSR's default, the mean of DIV2K"),
)


@dataclass(frozen=True, kw_only=True)
class Naming(ABC):
    """The naming of EDSR's or RCAN's layers in one code base; {b} is the block.

    The upsampler's convolutions are numbered with a step, as shuffles are between them.
    """

    head: str
    block: str
    conv1: str
    conv2: str
    body_end: str
    upsampler: str
    step: int = 2
    tail: str
    mean_in_file: bool = True

    @abstractmethod
    def read(self, state: State, scale: int | None) -> Reading:
        """Return the fields of a spec, inferred from tensors."""

    @abstractmethod
    def names(self, spec: Any, in_file: set[str]) -> dict[str, str]:
        """Return the file's tensor names by srkd's."""

    def count_blocks(self, state: State, **numbers: object) -> int:
        """Return the number of blocks, by their first convolutions; the counted number is given as (\\d+)."""
        name = f"{self.block.format(**numbers)}.{self.conv1}.weight"
        return count(state, name.replace(".", r"\."))

    def read_shared(self, state: State, fields: Mapping[str, Any], *assumed: Assumption) -> Reading:
        """Return `fields` with width, scale, range and mean; the last two from mean-shift tensors or BasicSR."""
        width = rows(state, f"{self.head}.weight")
        pattern = re.escape(self.upsampler) + r"\.([0-9]+)\.weight"
        numbers = sorted(int(match.group(1)) for name in state if (match := re.fullmatch(pattern, name)))
        steps = [rows(state, f"{self.upsampler}.{number}.weight") for number in numbers]
        fields = {"width": width, "scale": scale_from_upsampler(steps, width), **fields}
        if not self.mean_in_file:
            return Reading(fields, (*assumed, *BASICSR_RANGE))
        shift = read_mean_shift(state)
        return Reading({**fields, **shift.fields}, assumed, shift.notes)

    def tensor_names(self, spec: ShiftedSpec, layers: Iterable[tuple[str, str]]) -> dict[str, str]:
        """Return the names of the tensors of `layers`, of the upsampler, and of a mean shift from a file."""
        steps = range(len(upsampler_factors(spec.scale)))
        upsampler = [(f"upsampler.convs.{k}", f"{self.upsampler}.{k * self.step}") for k in steps]
        return weight_and_bias(*layers, *upsampler, *mean_shift_layers(spec))

    def dialect(
        self,
        name: str,
        *code_bases: str,
        marks: tuple[str, ...],
        wrapping: Wrapping = "bare",
        surplus: Callable[[str], bool] = is_mean_shift,
        fixed: Mapping[str, Any] | None = None,
    ) -> Dialect:
        """Return the dialect of files that hold tensors named `marks`.

        Files without a mean shift belong to a code base that only supports the constant one.
        """
        dialect = Dialect(
            name, has_tensors(*marks), self.read, self.names, surplus, code_bases, wrapping, fixed=fixed or {}
        )
        if self.mean_in_file:
            return replace(dialect, companions=constant_mean_shift)
        return replace(dialect, surplus=lambda name: False, fixed={**dialect.fixed, "mean_shift": "constant"})
