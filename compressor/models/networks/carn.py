"""CARN (Ahn, Kang, Sohn, 2018): cascading residual network. Code followed: nmhkahn/CARN-pytorch, carn/model/.

ReLU after every 1×1 fusion, after each residual sum, and in the upsampler before each pixel shuffle. There is no
global skip. Range [0,1] inside, mean subtracted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import ClassVar

import torch
from torch import nn

from compressor.base.errors import SrkdError, UsageError
from compressor.models.networks.axes import Axis, AxisPlan, layer_axes
from compressor.models.networks.base import Architecture, Descriptor, Network, Tap
from compressor.models.networks.dialect import (
    Dialect,
    NotedState,
    Reading,
    SeveralScales,
    State,
    named,
    read_mean_shift,
    rows,
    weight_and_bias,
)
from compressor.models.networks.edsr_family import ShiftedSpec, constant_mean_shift, mean_shift_layers, mean_shifts
from compressor.models.networks.layers import (
    ResidualBlock,
    Upsampler,
    conv3,
    scale_from_upsampler,
    upsampler_factors,
    upsampler_reach,
)
from compressor.models.networks.linear_plan import LinearLayer, LinearPlan, SpaceKind


@dataclass(frozen=True)
class CARNSpec(ShiftedSpec):
    arch: ClassVar[str] = "carn"
    img_range: float = field(default=1.0, kw_only=True)


class CarnBlock(ResidualBlock):
    """A residual block: ReLU(x + conv(ReLU(conv(x))))."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.relu = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        joined: torch.Tensor = self.relu(super().forward(x))
        return joined


class Cascade(nn.Module):
    """A cascade: o_k = ReLU(fuse_k(concat(x, b_1 … b_k))), b_k = step_k(o_{k-1}), o_0 = x; returns o_3.

    `steps` may hold a single module that runs three times: CARN-M shares its block.
    """

    def __init__(self, width: int, steps: list[nn.Module]) -> None:
        super().__init__()
        self.steps = nn.ModuleList(steps)
        self.fuses = nn.ModuleList(nn.Sequential(nn.Conv2d((k + 2) * width, width, 1), nn.ReLU()) for k in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        joined = out = x
        for k, fuse in enumerate(self.fuses):
            joined = torch.cat((joined, self.steps[k % len(self.steps)](out)), 1)
            out = fuse(joined)
        return out


class CARN(Network):
    spec: CARNSpec
    repeated = "cascade"

    def __init__(self, spec: CARNSpec) -> None:
        super().__init__()
        self.spec = spec
        self.sub_mean, self.add_mean = mean_shifts(spec)
        self.entry = conv3(3, spec.width)
        self.cascade = Cascade(spec.width, [self.block() for _ in range(3)])
        self.upsampler = Upsampler(spec.scale, spec.width, groups=self.upsampler_groups(), relu=True)
        self.exit = conv3(spec.width, 3)

    def block(self) -> Cascade:
        return Cascade(self.spec.width, [CarnBlock(self.spec.width) for _ in range(3)])

    def upsampler_groups(self) -> int:
        return 1

    def stem(self, lr: torch.Tensor) -> torch.Tensor:
        shallow: torch.Tensor = self.entry(self.sub_mean(lr))
        return shallow

    def finish(self, feature: torch.Tensor, shallow: torch.Tensor, lr: torch.Tensor) -> torch.Tensor:
        """Return the image of the deep feature alone: CARN has no global skip."""
        sr: torch.Tensor = self.add_mean(self.exit(self.upsampler(feature)))
        return sr

    def tail_output(self, image: torch.Tensor, lr: torch.Tensor) -> torch.Tensor:
        return self.add_mean.undo(image)

    @property
    def descriptor(self) -> Descriptor:
        radius = 1 + 3 * 3 * 2 + upsampler_reach(self.spec.scale)
        return Descriptor(scale=self.spec.scale, receptive_radius=math.ceil(radius))

    @property
    def taps(self) -> dict[str, Tap]:
        merges = {f"body[{k}]": Tap(f"cascade.fuses.{k}") for k in range(3)}
        return {"head": Tap("entry"), **merges, "body_end": merges["body[2]"], "pre_up": merges["body[2]"]}


def grouped_axes(spec: CARNSpec, block: Mapping[str, tuple[str, ...]], groups: int = 1) -> AxisPlan:
    """Return the plan of CARN and CARN-M: `block` declares a residual block, `groups` is that of its convolutions."""
    weights = {
        "entry": ("width", "rgb"),
        "upsampler.convs.*": (
            f"width * {upsampler_factors(spec.scale)[0] ** 2}",
            "width" if groups == 1 else f"width / {groups}",
        ),
        "exit": ("rgb", "width"),
        **{f"cascade.steps.*.steps.*.{conv}": expressions for conv, expressions in block.items()},
    }
    for k in range(3):
        # The input of the k-th fusion is the concatenation of k + 2 maps, one segment each.
        joined = " | ".join(["width"] * (k + 2))
        for cascade in ("cascade", *(f"cascade.steps.{i}" for i in range(3))):
            weights[f"{cascade}.fuses.{k}.0"] = ("width", joined)
    return AxisPlan({"width": Axis(spec.width, groups), "rgb": Axis(3)}, layer_axes(weights))


def axes(spec: CARNSpec) -> AxisPlan:
    return grouped_axes(spec, {"conv1": ("width", "width"), "conv2": ("width", "width")})


def linear(spec: CARNSpec) -> LinearPlan:
    return cascade_plan(spec, ("conv1", "conv2"), shared=False)


def cascade_plan(spec: CARNSpec, block: tuple[str, ...], *, shared: bool) -> LinearPlan:
    """Return the linear plan of CARN and CARN-M. ReLU follows every map, so units are selected, anew for each fusion.

    A residual block adds to its input, so its output has the input's units. `shared`: one block runs three times, so
    its three inputs have the same units. A stream that is not negative passes every ReLU; entry, which has none, only
    gives a stream.
    """
    entry = "entry"
    layers = [LinearLayer("entry", ("lr",), entry)]
    out, joined = entry, [entry]
    for i in range(3):
        step = f"cascade.steps.{i}"
        layers += _cascade_layers(step, out, block, shared=shared)
        joined.append(f"{step}.fuses.2")
        out = f"cascade.fuses.{i}"
        layers.append(LinearLayer(f"{out}.0", tuple(joined), out))
    levels = [out, *(f"upsampler.level.{k}" for k in range(len(upsampler_factors(spec.scale))))]
    layers += [LinearLayer(f"upsampler.convs.{k}", (a,), b) for k, (a, b) in enumerate(pairwise(levels))]
    layers.append(LinearLayer("exit", (levels[-1],), "sr"))
    names = dict.fromkeys(space for layer in layers for space in (*layer.inputs, layer.output))
    kinds: dict[str, SpaceKind] = {name: "fixed" if name in ("lr", "sr") else "units" for name in names}
    slopes = {space: 0.0 for space, kind in kinds.items() if kind == "units"}
    return LinearPlan(
        tuple(layers), kinds, ("cascade",), sweeps=2 if shared else 1, slopes=slopes, image_layers=len(levels)
    )


def _cascade_layers(step: str, entry: str, convs: tuple[str, ...], *, shared: bool) -> list[LinearLayer]:
    """Return the layers of three residual blocks and their fusions, which read the map of space `entry`."""
    layers: list[LinearLayer] = []
    out, joined = entry, [entry]
    for k in range(3):
        block = f"{step}.steps.{0 if shared else k}"
        if not (shared and k):
            hidden = [out, *(f"{block}.{conv}.hidden" for conv in convs[:-1]), out]
            pairs = zip(convs, pairwise(hidden), strict=True)
            layers += [LinearLayer(f"{block}.{conv}", (a,), b) for conv, (a, b) in pairs]
            layers[-1] = replace(layers[-1], at=Tap(f"{block}.relu", "input"))
        joined.append(out)
        fused = entry if shared and k < 2 else f"{step}.fuses.{k}"
        layers.append(LinearLayer(f"{step}.fuses.{k}.0", tuple(joined), fused))
        out = fused
    return layers


def _scale(state: State, scale: int | None) -> int:
    """Return the scale of a single-scale file, or `scale` of a multi-scale file (up2, up3, up4)."""
    width = rows(state, "entry.weight")
    if "upsample.up.body.0.weight" in state:
        names = [n for n in ("upsample.up.body.0.weight", "upsample.up.body.3.weight") if n in state]
        return scale_from_upsampler([rows(state, name) for name in names], width)
    scales = [s for s in (2, 3, 4) if f"upsample.up{s}.body.0.weight" in state]
    if not scales:
        raise SrkdError("no upsampler (upsample.up… or upsample.up2, up3, up4) is in the file")
    if scale is None and len(scales) > 1:
        raise SeveralScales(f"the file holds scales {', '.join(map(str, scales))}: choose one with --scale")
    if scale is not None and scale not in scales:
        raise UsageError(f"the file holds scales {', '.join(map(str, scales))}, not {scale}")
    return scale or scales[0]


LAYERS = {
    "entry": "entry",
    "exit": "exit",
    "cascade.fuses.{k}.0": "c{k+1}.body.0",
    "cascade.steps.{i}.fuses.{k}.0": "b{i+1}.c{k+1}.body.0",
}


def official_names(spec: CARNSpec, in_file: set[str], block: Mapping[str, str]) -> dict[str, str]:
    """Return the names in a file; `block` has those of a block's layers. One with several scales has up2, up3, up4."""
    up = f"up{spec.scale}" if f"upsample.up{spec.scale}.body.0.weight" in in_file else "up"
    layers = {**LAYERS, "upsampler.convs.{j}": f"upsample.{up}.body.{{3*j}}", **block}
    found = named(layers, i=3, k=3, j=len(upsampler_factors(spec.scale)))
    return weight_and_bias(found | mean_shift_layers(spec, ".shifter"))


def _companions(spec: CARNSpec) -> NotedState:
    note = f"a file of one scale: build the network with multi_scale=False, scale={spec.scale}"
    return constant_mean_shift(spec, ".shifter")[0], (note,)


def read_official(state: State, scale: int | None) -> Reading:
    shift = read_mean_shift(state, ".shifter")
    fields = {"width": rows(state, "entry.weight"), "scale": _scale(state, scale), **shift.fields}
    return Reading(fields, notes=shift.notes)


BLOCK = {
    "cascade.steps.{i}.steps.{k}.conv1": "b{i+1}.b{k+1}.body.0",
    "cascade.steps.{i}.steps.{k}.conv2": "b{i+1}.b{k+1}.body.2",
}
OFFICIAL = Dialect(
    name="carn",
    recognises=lambda state: (
        "entry.weight" in state and "b1.b2.body.0.weight" in state and "b1.b1.body.4.weight" not in state
    ),
    read=read_official,
    names=lambda spec, in_file: official_names(spec, in_file, BLOCK),
    # A mean shift that equals the constants, and the upsamplers of other scales.
    surplus=lambda name: name.startswith(("sub_mean.", "add_mean.", "upsample.up2.", "upsample.up3.", "upsample.up4.")),
    code_bases=("carn",),
    companions=_companions,
    fixed={"img_range": 1.0},
)

ARCHITECTURE = Architecture(
    CARNSpec,
    CARN,
    axes,
    linear=linear,
    quantised=("cascade.steps.*.steps.*.conv1", "cascade.steps.*.steps.*.conv2"),
    small=CARNSpec(width=20),
    variants=(CARNSpec(8, width=4),),
    dialects=(OFFICIAL,),
)
