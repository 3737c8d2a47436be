"""RCAN (Zhang et al., 2018): residual groups of residual blocks with channel attention.

Code followed: yulunzhang/RCAN, RCAN_TestCode/code/model/rcan.py; BasicSR rcan_arch.py. The official RCAB ignores
res_scale (its `.mul` is commented out), BasicSR's multiplies by it: the spec keeps it, 1 by default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from compressor.base.errors import SrkdError
from compressor.models.networks.axes import Axis, AxisPlan, Repeat, layer_axes
from compressor.models.networks.base import (
    Architecture,
    Descriptor,
    PublishedSettings,
    Tap,
    require_positive,
    scale_count,
)
from compressor.models.networks.dialect import Assumption, Dialect, State, count_layers, filled, rows
from compressor.models.networks.edsr_family import (
    BASICSR_ENDS,
    CSD_ENDS,
    OFFICIAL_ENDS,
    LongSkipNetwork,
    ShiftedSpec,
    is_mean_shift,
    long_skip_axes,
    long_skip_dialect,
    long_skip_plan,
)
from compressor.models.networks.layers import ResidualBlock, conv3
from compressor.models.networks.linear_plan import HeldGate, LinearLayer, LinearPlan


@dataclass(frozen=True)
class RCANSpec(ShiftedSpec):
    """The spec of RCAN: `groups` of `depth` blocks, `hidden` units in the attention (64 channels / reduction 16)."""

    arch: ClassVar[str] = "rcan"
    groups: int = 10
    depth: int = 20
    hidden: int = 4
    res_scale: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "groups", "depth", "hidden")

    @property
    def undetectable(self) -> Mapping[str, tuple[Any, ...]]:
        return {**super().undetectable, "res_scale": (1.0, 0.1)}

    def narrowed(self, width: float) -> RCANSpec:
        """Return the spec with ⌊w·C⌋ channels and ⌊w·C/r⌋ hidden units, at least one of each."""
        channels = scale_count("width", width, self.width)
        return replace(self, width=channels, hidden=scale_count("width", width, self.hidden))


class ChannelAttention(nn.Module):
    """Channel attention: u · sigmoid(expand(ReLU(squeeze(mean of u over space))))."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.squeeze = nn.Conv2d(width, hidden, 1)
        self.expand = nn.Conv2d(hidden, width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gates: torch.Tensor = torch.sigmoid(self.expand(F.relu(self.squeeze(self.pool(x)))))
        return x * gates


class ResidualGroup(nn.Module):
    """A residual group: x + conv(blocks(x))."""

    def __init__(self, spec: RCANSpec) -> None:
        super().__init__()
        attention = partial(ChannelAttention, spec.width, spec.hidden)
        self.blocks = nn.Sequential(*(ResidualBlock(spec.width, spec.res_scale, attention) for _ in range(spec.depth)))
        self.conv = conv3(spec.width, spec.width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branch: torch.Tensor = self.conv(self.blocks(x))
        return x + branch


class RCAN(LongSkipNetwork):
    spec: RCANSpec
    repeated = "groups"

    def __init__(self, spec: RCANSpec) -> None:
        super().__init__(spec, (ResidualGroup(spec) for _ in range(spec.groups)))

    @property
    def descriptor(self) -> Descriptor:
        """The descriptor without a receptive radius: the attention pools over the whole image."""
        return Descriptor(scale=self.spec.scale, receptive_radius=None)


def axes(spec: RCANSpec) -> AxisPlan:
    weights = {
        **long_skip_axes(spec.scale),
        **dict.fromkeys(("groups.*.blocks.*.conv1", "groups.*.blocks.*.conv2", "groups.*.conv"), ("width", "width")),
        "groups.*.blocks.*.attention.squeeze": ("hidden", "width"),
        "groups.*.blocks.*.attention.expand": ("width", "hidden"),
    }
    return AxisPlan(
        axes={"width": Axis(spec.width), "hidden": Axis(spec.hidden, local=True), "rgb": Axis(3)},
        parameters=layer_axes(weights),
        repeats=(Repeat("groups", spec.groups), Repeat("groups.*.blocks", spec.depth)),
    )


def linear(spec: RCANSpec) -> LinearPlan:
    """Return the linear plan: gates make another basis of the stream approximate. One with a zero last layer is 1/2."""
    groups = [f"groups.{g}" for g in range(spec.groups)]
    head = entry = Tap("head")
    body: list[LinearLayer] = []
    hidden: list[str] = []
    states: list[tuple[Tap, ...]] = []
    units: list[tuple[str, ...]] = []
    for group in groups:
        for block in (f"{group}.blocks.{b}" for b in range(spec.depth)):
            wide, inner = f"{block}.hidden", f"{block}.attention.hidden"
            gate = f"{block}.attention.expand"
            at, gain = Tap(block), spec.res_scale
            held = HeldGate(gate, bias=0.0, at=at, gain=gain / 2)
            body += [
                LinearLayer(f"{block}.conv1", ("stream",), wide),
                LinearLayer(f"{block}.conv2", (wide,), "stream", at=at, gain=gain, gate=gate, held=held),
                LinearLayer(f"{block}.attention.squeeze", ("stream",), inner),
                LinearLayer(gate, (inner,), "stream"),
            ]
            hidden += [wide, inner]
            states.append((at, entry, head))
            units.append((wide,))
        entry = Tap(group)
        body.append(LinearLayer(f"{group}.conv", ("stream",), "stream", at=entry))
        states.append((entry, entry, head))
        units.append(())
    return long_skip_plan(spec.scale, "mixed", body, hidden, groups, states, units)


def _dialect(name: str, layers: Mapping[str, str], *code_bases: str, **options: Any) -> Dialect:
    def sizes(state: State) -> tuple[Mapping[str, Any], tuple[Assumption, ...]]:
        first = layers["groups.{g}.blocks.{b}.conv1"]
        groups = count_layers(state, first, b=0)
        depths = {count_layers(state, first, g=g) for g in range(groups)}
        if len(depths) != 1:
            raise SrkdError(f"its groups have {sorted(depths) or 'no'} blocks: RCAN has equally many in each")
        squeeze = filled(layers["groups.{g}.blocks.{b}.attention.squeeze"], {"g": 0, "b": 0})
        fields = {"groups": groups, "depth": depths.pop(), "hidden": rows(state, f"{squeeze}.weight")}
        scaled = Assumption("res_scale", 1.0, "not in the file; BasicSR's default")
        return fields, (scaled,) if name == "basicsr" else ()

    return long_skip_dialect(
        name, layers, sizes, lambda spec: {"g": spec.groups, "b": spec.depth}, *code_bases, **options
    )


OFFICIAL = {
    **OFFICIAL_ENDS,
    "body_end": "body.{g}",
    "groups.{g}.conv": "body.{g}.body.{b}",
    "groups.{g}.blocks.{b}.conv1": "body.{g}.body.{b}.body.0",
    "groups.{g}.blocks.{b}.conv2": "body.{g}.body.{b}.body.2",
    "groups.{g}.blocks.{b}.attention.squeeze": "body.{g}.body.{b}.body.3.conv_du.0",
    "groups.{g}.blocks.{b}.attention.expand": "body.{g}.body.{b}.body.3.conv_du.2",
}
FAKD = {here: there.replace("body.{g}.", "body_group{g}.") for here, there in OFFICIAL.items()} | {
    "body_end": "body_tail"
}
BASICSR = {
    **BASICSR_ENDS,
    "groups.{g}.conv": "body.{g}.conv",
    "groups.{g}.blocks.{b}.conv1": "body.{g}.residual_group.{b}.rcab.0",
    "groups.{g}.blocks.{b}.conv2": "body.{g}.residual_group.{b}.rcab.2",
    "groups.{g}.blocks.{b}.attention.squeeze": "body.{g}.residual_group.{b}.rcab.3.attention.1",
    "groups.{g}.blocks.{b}.attention.expand": "body.{g}.residual_group.{b}.rcab.3.attention.3",
}
CSD = {
    **CSD_ENDS,
    "head": "head_conv",
    "groups.{g}.conv": "body.{g}.conv",
    "groups.{g}.blocks.{b}.conv1": "body.{g}.body.{b}.body.0",
    "groups.{g}.blocks.{b}.conv2": "body.{g}.body.{b}.body.1",
    "groups.{g}.blocks.{b}.attention.squeeze": "body.{g}.body.{b}.caLayer.conv_du.0",
    "groups.{g}.blocks.{b}.attention.expand": "body.{g}.body.{b}.caLayer.conv_du.1",
}
NO_RES_SCALE = {"res_scale": 1.0}
"""The multiplication by res_scale is commented out in the code of RCAN, CSD and FAKD."""

ARCHITECTURE = Architecture(
    RCANSpec,
    RCAN,
    axes,
    linear=linear,
    # The attention gets one value per channel, and a group's last convolution corresponds to EDSR's body_end.
    quantised=("groups.*.blocks.*.conv1", "groups.*.blocks.*.conv2"),
    small=RCANSpec(width=20, groups=3, depth=2, hidden=5),
    variants=(
        RCANSpec(8, width=4, groups=2, depth=2, hidden=2),
        RCANSpec(2, width=4, groups=1, depth=2, hidden=1, res_scale=0.1, mean_shift="file"),
    ),
    dialects=(
        replace(
            _dialect(
                "rcan",
                OFFICIAL,
                "rcan",
                "edsr-pytorch",
                marks=("body.0.body.0.body.3.conv_du.0.weight",),
                fixed=NO_RES_SCALE,
                community_name="rcan",
            ),
            # A mean shift, and the heads of intermediate outputs that HKDSR adds to an RCAN.
            surplus=lambda name: name.startswith(("ft_upsampler.", "ft_pre_upsampler.")) or is_mean_shift(name),
        ),
        _dialect("fakd", FAKD, "fakd", marks=("body_group0.body.0.body.3.conv_du.0.weight",), fixed=NO_RES_SCALE),
        _dialect(
            "basicsr",
            BASICSR,
            "basicsr",
            marks=("body.0.residual_group.0.rcab.0.weight",),
            wrapping="params",
            mean_in_file=False,
        ),
        _dialect(
            "csd",
            CSD,
            "csd",
            marks=("body.0.body.0.caLayer.conv_du.0.weight",),
            wrapping="model_state_dict > module.*",
            fixed=NO_RES_SCALE,
        ),
    ),
    published=(
        # The taps that FAKD's code numbers (models/rcan.py).
        PublishedSettings({"fakd.taps": ("body[2]", "body[6]", "pre_up")}, where={"groups": 10}),
        # The option files of DUKD's code (yun224/DUKD, options/).
        *(
            PublishedSettings(
                {"dukd.pixel_weight": weight, "dukd.probability": chance, "dukd.zoom_out": zoom_out, "dukd.cells": 1},
                where={"scale": scale},
            )
            for scale, weight, chance, zoom_out in ((2, 1.0, 0.0, "off"), (3, 2.0, 0.3, "on"), (4, 1.0, 0.0, "off"))
        ),
    ),
)
