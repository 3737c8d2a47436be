"""EDSR (Lim et al., 2017): residual blocks without batch norm between a head and a pixel-shuffle tail.

Code followed: BasicSR edsr_arch.py, EDSR-PyTorch src/model/edsr.py. No activation in the upsampler; the body's last
convolution is not scaled; the long skip adds the head's output.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from compressor.models.networks.axes import Axis, AxisPlan, Repeat
from compressor.models.networks.base import Architecture, Descriptor, Tap, require_positive, scale_count
from compressor.models.networks.dialect import Assumption, Dialect, Reading, State, count, rows, weight_and_bias
from compressor.models.networks.edsr_family import (
    LongSkipNetwork,
    ShiftedSpec,
    constant_mean_shift,
    is_mean_shift,
    mean_shift_layers,
    mean_shifts,
    read_with_range,
    upsampler_layers,
    upsampler_scale,
)
from compressor.models.networks.layers import Upsampler, upsampler_factors, upsampler_reach


@dataclass(frozen=True)
class EDSRSpec(ShiftedSpec):
    """`res_scale` is in no state dict: 0.1 for 256 channels and for DUKD's and CSD's 32/64 students, else 1."""

    arch: ClassVar[str] = "edsr"
    width: int = 64
    depth: int = 16
    res_scale: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "width")
        require_positive(self, "depth", limit=1024)
        upsampler_factors(self.scale)

    @property
    def undetectable(self) -> Mapping[str, tuple[Any, ...]]:
        return {**super().undetectable, "res_scale": (1.0, 0.1)}

    def narrowed(self, width: float) -> EDSRSpec:
        return replace(self, width=scale_count("width", width, self.width))

    def shortened(self, depth: float) -> EDSRSpec:
        return replace(self, depth=scale_count("depth", depth, self.depth))


class ResidualBlock(nn.Module):
    """x + res_scale · conv(ReLU(conv(x)))."""

    def __init__(self, width: int, res_scale: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.res_scale = res_scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branch: torch.Tensor = self.conv2(F.relu(self.conv1(x)))
        return x + (branch if self.res_scale == 1.0 else branch * self.res_scale)


class EDSR(LongSkipNetwork):
    spec: EDSRSpec

    def __init__(self, spec: EDSRSpec) -> None:
        super().__init__()
        self.spec = spec
        self.sub_mean, self.add_mean = mean_shifts(spec)
        self.head = nn.Conv2d(3, spec.width, 3, padding=1)
        self.blocks = nn.Sequential(*(ResidualBlock(spec.width, spec.res_scale) for _ in range(spec.depth)))
        self.body_end = nn.Conv2d(spec.width, spec.width, 3, padding=1)
        self.upsampler = Upsampler(spec.scale, spec.width)
        self.tail = nn.Conv2d(spec.width, 3, 3, padding=1)

    def body(self, feature: torch.Tensor) -> torch.Tensor:
        deep: torch.Tensor = self.blocks(feature)
        return deep

    @property
    def descriptor(self) -> Descriptor:
        radius = 1 + 2 * self.spec.depth + 1 + upsampler_reach(self.spec.scale)
        return Descriptor(scale=self.spec.scale, receptive_radius=math.ceil(radius))

    @property
    def taps(self) -> dict[str, Tap]:
        blocks = {f"body[{k}]": Tap(f"blocks.{k}") for k in range(self.spec.depth)}
        return {"head": Tap("head"), **blocks, "body_end": Tap("body_end"), "pre_up": Tap("upsampler", "input")}


def axes(spec: EDSRSpec) -> AxisPlan:
    rows_per_unit = upsampler_factors(spec.scale)[0] ** 2
    return AxisPlan(
        axes={"width": Axis(spec.width), "rgb": Axis(3)},
        parameters={
            "head.weight": ("width", "rgb"),
            "head.bias": ("width",),
            "blocks.*.conv1.weight": ("width", "width"),
            "blocks.*.conv1.bias": ("width",),
            "blocks.*.conv2.weight": ("width", "width"),
            "blocks.*.conv2.bias": ("width",),
            "body_end.weight": ("width", "width"),
            "body_end.bias": ("width",),
            "upsampler.convs.*.weight": (f"width * {rows_per_unit}", "width"),
            "upsampler.convs.*.bias": (f"width * {rows_per_unit}",),
            "tail.weight": ("rgb", "width"),
            "tail.bias": ("rgb",),
        },
        repeats=(Repeat("blocks", spec.depth),),
    )


def _assumed_res_scale(width: int) -> Assumption:
    value = 0.1 if width >= 256 else 1.0
    return Assumption("res_scale", value, f"not in the file; published EDSR of {width} channels uses {value:g}")


CSD_RES_SCALE = Assumption("res_scale", 0.1, "not in the file; CSD's default at every width (option.py)")


@dataclass(frozen=True)
class Naming:
    """The name of each layer in one code base; {i} is the block, {n} their number. `numbers` are patterns of blocks."""

    head: str
    numbers: tuple[str, ...]
    block: str
    conv1: str
    conv2: str
    body_end: str
    upsampler: str
    step: int
    tail: str
    mean_in_file: bool = True
    res_scale: Assumption | None = None

    def read(self, state: State, scale: int | None) -> Reading:
        width = rows(state, f"{self.head}.weight")
        res_scale = self.res_scale or _assumed_res_scale(width)
        fields = {
            "width": width,
            "depth": sum(count(state, pattern) for pattern in self.numbers),
            "res_scale": res_scale.value,
            "scale": upsampler_scale(state, self.upsampler, width),
        }
        return read_with_range(state, fields, (res_scale,), mean_in_file=self.mean_in_file)

    def names(self, spec: EDSRSpec, in_file: set[str]) -> dict[str, str]:
        layers = [("head", self.head), ("body_end", self.body_end_name(spec.depth)), ("tail", self.tail)]
        for i in range(spec.depth):
            block = self.block_name(i, spec.depth)
            layers += [(f"blocks.{i}.conv1", f"{block}.{self.conv1}"), (f"blocks.{i}.conv2", f"{block}.{self.conv2}")]
        layers += upsampler_layers(spec.scale, self.upsampler, self.step)
        return weight_and_bias(*layers, *mean_shift_layers(spec))

    def block_name(self, index: int, depth: int) -> str:
        return self.block.format(i=index)

    def body_end_name(self, depth: int) -> str:
        return self.body_end.format(n=depth)


@dataclass(frozen=True)
class NamingInThirds(Naming):
    """FAKD (code/models/edsr.py) keeps its blocks in three parts that end at ⌊n/3⌋, ⌊2n/3⌋ and n; {p} is the part."""

    def block_name(self, index: int, depth: int) -> str:
        first, second = depth // 3, 2 * depth // 3
        part, start = (1, 0) if index < first else (2, first) if index < second else (3, second)
        return self.block.format(p=part, i=index - start)

    def body_end_name(self, depth: int) -> str:
        return self.body_end.format(n=depth - 2 * depth // 3)


OFFICIAL_NAMES = Naming(
    head="head.0",
    numbers=(r"body\.(\d+)\.body\.0\.weight",),
    block="body.{i}",
    conv1="body.0",
    conv2="body.2",
    body_end="body.{n}",
    upsampler="tail.0",
    step=2,
    tail="tail.1",
)
FAKD_NAMES = NamingInThirds(
    head="head.0",
    numbers=tuple(rf"body{part}\.(\d+)\.body\.0\.weight" for part in (1, 2, 3)),
    block="body{p}.{i}",
    conv1="body.0",
    conv2="body.2",
    body_end="body3.{n}",
    upsampler="tail.0",
    step=2,
    tail="tail.1",
)
BASICSR_NAMES = Naming(
    head="conv_first",
    numbers=(r"body\.(\d+)\.conv1\.weight",),
    block="body.{i}",
    conv1="conv1",
    conv2="conv2",
    body_end="conv_after_body",
    upsampler="upsample",
    step=2,
    tail="conv_last",
    mean_in_file=False,
)
CSD_NAMES = Naming(
    head="head",
    numbers=(r"body\.(\d+)\.conv1\.weight",),
    block="body.{i}",
    conv1="conv1",
    conv2="conv2",
    body_end="body_conv",
    upsampler="upsampler.blocks",
    step=1,
    tail="tail_conv",
    res_scale=CSD_RES_SCALE,
)
EDSR_PYTORCH = Dialect(
    name="edsr-pytorch",
    recognises=lambda state: "head.0.weight" in state and "body.0.body.0.weight" in state,
    read=OFFICIAL_NAMES.read,
    names=OFFICIAL_NAMES.names,
    surplus=is_mean_shift,
    code_bases=("edsr-pytorch", "rcan"),
    companions=constant_mean_shift,
)
FAKD = Dialect(
    name="fakd",
    recognises=lambda state: "head.0.weight" in state and "body3.0.body.0.weight" in state,
    read=FAKD_NAMES.read,
    names=FAKD_NAMES.names,
    surplus=is_mean_shift,
    code_bases=("fakd",),
    companions=constant_mean_shift,
)
BASICSR = Dialect(
    name="basicsr",
    recognises=lambda state: "conv_first.weight" in state and "body.0.conv1.weight" in state,
    read=BASICSR_NAMES.read,
    names=BASICSR_NAMES.names,
    code_bases=("basicsr",),
    wrapping="params",
    fixed={"mean_shift": "constant"},
)
CSD = Dialect(
    name="csd",
    recognises=lambda state: "body_conv.weight" in state and "body.0.conv1.weight" in state,
    read=CSD_NAMES.read,
    names=CSD_NAMES.names,
    surplus=is_mean_shift,
    code_bases=("csd",),
    wrapping="model_state_dict > module.*",
    companions=constant_mean_shift,
)

ARCHITECTURE = Architecture(
    EDSRSpec,
    EDSR,
    axes,
    small=EDSRSpec(width=20, depth=3),
    variants=(EDSRSpec(8, width=4, depth=2),),
    dialects=(EDSR_PYTORCH, BASICSR, CSD, FAKD),
)
