"""EDSR (Lim et al., 2017): residual blocks without batch norm between a head and a pixel-shuffle tail.

Code followed: BasicSR edsr_arch.py, EDSR-PyTorch src/model/edsr.py. No activation in the upsampler; the body's last
convolution is not scaled; the long skip adds the head's output.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from compressor.errors import UsageError
from compressor.networks.architecture import Architecture
from compressor.networks.axes import Axis, AxisPlan, Repeat
from compressor.networks.base import Descriptor, Network, Spec, Tap, fraction, positive
from compressor.networks.dialect import Assumption, Dialect, Reading, State, both, count, read_mean_shift, rows
from compressor.networks.layers import (
    DIV2K_MEAN,
    MeanShift,
    Upsampler,
    scale_from_upsampler,
    upsampler_factors,
    upsampler_reach,
)


@dataclass(frozen=True)
class EDSRSpec(Spec):
    """`res_scale` is in no state dict: 0.1 for 256 channels and for DUKD's and CSD's 32/64 students, else 1."""

    arch: ClassVar[str] = "edsr"
    width: int = 64
    depth: int = 16
    res_scale: float = 1.0
    mean: tuple[float, ...] = DIV2K_MEAN
    img_range: float = 255.0
    mean_shift: str = "constant"

    def __post_init__(self) -> None:
        positive(self, "width")
        positive(self, "depth", limit=1024)
        upsampler_factors(self.scale)
        if self.mean_shift not in ("constant", "file"):
            raise UsageError(f"edsr: mean_shift={self.mean_shift!r} is neither 'constant' nor 'file'")
        if not self.img_range > 0:
            raise UsageError(f"edsr: img_range={self.img_range:g} is not above 0")

    def narrowed(self, width: float) -> EDSRSpec:
        return replace(self, width=max(1, math.floor(fraction("width", width) * self.width + 1e-9)))

    def shortened(self, depth: float) -> EDSRSpec:
        return replace(self, depth=max(1, math.floor(fraction("depth", depth) * self.depth + 1e-9)))


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


class EDSR(Network):
    spec: EDSRSpec

    def __init__(self, spec: EDSRSpec) -> None:
        super().__init__()
        self.spec = spec
        from_file = spec.mean_shift == "file"
        self.sub_mean = MeanShift(spec.mean, spec.img_range, leave=False, from_file=from_file)
        self.add_mean = MeanShift(spec.mean, spec.img_range, leave=True, from_file=from_file)
        self.head = nn.Conv2d(3, spec.width, 3, padding=1)
        self.blocks = nn.Sequential(*(ResidualBlock(spec.width, spec.res_scale) for _ in range(spec.depth)))
        self.body_end = nn.Conv2d(spec.width, spec.width, 3, padding=1)
        self.upsampler = Upsampler(spec.scale, spec.width)
        self.tail = nn.Conv2d(spec.width, 3, 3, padding=1)

    def stem(self, lr: torch.Tensor) -> torch.Tensor:
        shallow: torch.Tensor = self.head(self.sub_mean(lr))
        return shallow

    def body(self, feature: torch.Tensor) -> torch.Tensor:
        deep: torch.Tensor = self.blocks(feature)
        return deep

    def finish(self, feature: torch.Tensor, shallow: torch.Tensor, lr: torch.Tensor) -> torch.Tensor:
        sr: torch.Tensor = self.add_mean(self.tail(self.upsampler(self.body_end(feature) + shallow)))
        return sr

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


def _read(
    state: State, *, head: str, block: str, upsampler: str, mean_in_file: bool, res_scale: Assumption | None = None
) -> Reading:
    width = rows(state, f"{head}.weight")
    depth = count(state, block)
    convs = sorted((int(name[len(upsampler) + 1 : -7]), name) for name in state if _is_conv(name, upsampler))
    res_scale = res_scale or _assumed_res_scale(width)
    fields = {"width": width, "depth": depth, "res_scale": res_scale.value}
    fields["scale"] = scale_from_upsampler([rows(state, name) for _, name in convs], width)
    if mean_in_file:
        shift = read_mean_shift(state)
        return Reading({**fields, **shift.fields}, (res_scale,), shift.notes)
    assumed = (
        res_scale,
        Assumption("img_range", 255.0, "not in the file; BasicSR's default"),
        Assumption("mean", DIV2K_MEAN, "not in the file; BasicSR's default, the mean of DIV2K"),
    )
    return Reading(fields, assumed)


def _is_conv(name: str, prefix: str) -> bool:
    return name.startswith(f"{prefix}.") and name.endswith(".weight") and name[len(prefix) + 1 : -7].isdigit()


def _names(
    spec: EDSRSpec, head: str, blocks: tuple[str, str], body_end: str, upsampler: str, step: int, tail: str
) -> dict[str, str]:
    layers = [("head", head), ("body_end", body_end), ("tail", tail)]
    for i in range(spec.depth):
        layers += [(f"blocks.{i}.conv1", blocks[0].format(i=i)), (f"blocks.{i}.conv2", blocks[1].format(i=i))]
    layers += [(f"upsampler.convs.{k}", f"{upsampler}.{k * step}") for k in range(len(upsampler_factors(spec.scale)))]
    if spec.mean_shift == "file":
        layers += [("sub_mean", "sub_mean"), ("add_mean", "add_mean")]
    return both(*layers)


def _is_mean_shift(name: str) -> bool:
    return name.startswith(("sub_mean.", "add_mean."))


EDSR_PYTORCH = Dialect(
    name="edsr-pytorch",
    recognises=lambda state: "head.0.weight" in state and "body.0.body.0.weight" in state,
    read=lambda state, scale: _read(
        state, head="head.0", block=r"body\.(\d+)\.body\.0\.weight", upsampler="tail.0", mean_in_file=True
    ),
    names=lambda spec, in_file: _names(
        spec, "head.0", ("body.{i}.body.0", "body.{i}.body.2"), f"body.{spec.depth}", "tail.0", 2, "tail.1"
    ),
    surplus=_is_mean_shift,
)
BASICSR = Dialect(
    name="basicsr",
    recognises=lambda state: "conv_first.weight" in state and "body.0.conv1.weight" in state,
    read=lambda state, scale: _read(
        state, head="conv_first", block=r"body\.(\d+)\.conv1\.weight", upsampler="upsample", mean_in_file=False
    ),
    names=lambda spec, in_file: _names(
        spec, "conv_first", ("body.{i}.conv1", "body.{i}.conv2"), "conv_after_body", "upsample", 2, "conv_last"
    ),
)
CSD = Dialect(
    name="csd",
    recognises=lambda state: "body_conv.weight" in state and "body.0.conv1.weight" in state,
    read=lambda state, scale: _read(
        state,
        head="head",
        block=r"body\.(\d+)\.conv1\.weight",
        upsampler="upsampler.blocks",
        mean_in_file=True,
        res_scale=CSD_RES_SCALE,
    ),
    names=lambda spec, in_file: _names(
        spec, "head", ("body.{i}.conv1", "body.{i}.conv2"), "body_conv", "upsampler.blocks", 1, "tail_conv"
    ),
    surplus=_is_mean_shift,
)

ARCHITECTURE = Architecture(EDSRSpec, EDSR, axes, dialects=(EDSR_PYTORCH, BASICSR, CSD))
