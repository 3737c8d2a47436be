"""CARN-M (Ahn, Kang, Sohn, 2018): CARN with one shared, grouped residual block in each cascade.

Code followed: nmhkahn/CARN-pytorch, carn/model/carn_m.py. The shared block runs three times (MACs ×3, parameters ×1);
the upsampler's convolutions are grouped too; entry, exit and fusions are not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from compressor.base.errors import SrkdError, UsageError
from compressor.models.networks.axes import Axis, AxisPlan
from compressor.models.networks.base import Architecture, require_fraction
from compressor.models.networks.carn import (
    CARN,
    CARNSpec,
    Cascade,
    official_companions,
    official_layers,
    official_scale,
    official_surplus,
    shared_axes,
)
from compressor.models.networks.dialect import Dialect, Reading, State, columns, read_mean_shift, rows, weight_and_bias


@dataclass(frozen=True)
class CARNMSpec(CARNSpec):
    arch: ClassVar[str] = "carn_m"
    groups: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.groups < 1 or self.width % self.groups:
            raise UsageError(f"carn_m: width={self.width} is not a multiple of groups={self.groups}")

    def narrowed(self, width: float) -> CARNMSpec:
        """Rounded down to a multiple of the groups, at least one channel a group."""
        kept = math.floor(require_fraction("width", width) * self.width + 1e-9)
        return replace(self, width=max(1, kept // self.groups) * self.groups)


class EfficientBlock(nn.Module):
    """ReLU(x + pointwise(ReLU(grouped(ReLU(grouped(x))))))."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, groups=groups)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, groups=groups)
        self.pointwise = nn.Conv2d(width, width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(x + self.pointwise(F.relu(self.conv2(F.relu(self.conv1(x))))))


class CARNM(CARN):
    spec: CARNMSpec

    def block(self) -> Cascade:
        return Cascade(self.spec.width, [EfficientBlock(self.spec.width, self.spec.groups)])

    def upsampler_groups(self) -> int:
        return self.spec.groups


def axes(spec: CARNMSpec) -> AxisPlan:
    grouped = f"width / {spec.groups}"
    block = {
        "cascade.steps.*.steps.*.conv1.weight": ("width", grouped),
        "cascade.steps.*.steps.*.conv1.bias": ("width",),
        "cascade.steps.*.steps.*.conv2.weight": ("width", grouped),
        "cascade.steps.*.steps.*.conv2.bias": ("width",),
        "cascade.steps.*.steps.*.pointwise.weight": ("width", "width"),
        "cascade.steps.*.steps.*.pointwise.bias": ("width",),
    }
    return AxisPlan({"width": Axis(spec.width, spec.groups), "rgb": Axis(3)}, shared_axes(spec, block, grouped))


def _read(state: State, scale: int | None) -> Reading:
    width, per_group = rows(state, "entry.weight"), columns(state, "b1.b1.body.0.weight")
    if per_group < 1 or width % per_group:
        raise SrkdError(f"b1.b1.body.0.weight has {per_group} columns, which do not divide {width} channels")
    shift = read_mean_shift(state, ".shifter")
    fields = {"width": width, "groups": width // per_group, "scale": official_scale(state, scale), **shift.fields}
    return Reading(fields, notes=shift.notes)


CONVS = {"steps.0.conv1": "b1.body.0", "steps.0.conv2": "b1.body.2", "steps.0.pointwise": "b1.body.4"}
OFFICIAL = Dialect(
    name="carn_m",
    recognises=lambda state: "entry.weight" in state and "b1.b1.body.4.weight" in state,
    read=_read,
    names=lambda spec, state_names: weight_and_bias(*official_layers(spec, state_names, CONVS)),
    surplus=official_surplus,
    code_bases=("carn",),
    companions=official_companions,
    fixed={"img_range": 1.0},
)

ARCHITECTURE = Architecture(
    CARNMSpec, CARNM, axes, small=CARNMSpec(width=20), variants=(CARNMSpec(8, width=4),), dialects=(OFFICIAL,)
)
