"""CARN-M (Ahn, Kang, Sohn, 2018): CARN with one shared, grouped residual block in each cascade.

Code followed: nmhkahn/CARN-pytorch, carn/model/carn_m.py. The shared block runs three times (MACs ×3, parameters ×1);
the upsampler's convolutions are grouped too; entry, exit and fusions are not.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from compressor.base.errors import SrkdError, UsageError
from compressor.models.networks.axes import AxisPlan
from compressor.models.networks.base import Architecture, scale_count
from compressor.models.networks.carn import (
    CARN,
    CARNSpec,
    Cascade,
    cascade_plan,
    grouped_axes,
    official_names,
    read_official,
)
from compressor.models.networks.carn import OFFICIAL as CARN_OFFICIAL
from compressor.models.networks.dialect import Reading, State, columns, has_tensors, rows
from compressor.models.networks.linear_plan import LinearPlan
from compressor.models.quantisation.quantisers import Place, Shortcut


@dataclass(frozen=True)
class CARNMSpec(CARNSpec):
    arch: ClassVar[str] = "carn_m"
    groups: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.groups < 1 or self.width % self.groups:
            raise UsageError(f"carn_m: width={self.width} is not a multiple of groups={self.groups}")

    def narrowed(self, width: float) -> CARNMSpec:
        """Return the spec at a fraction of the width, rounded down to a multiple of the groups (at least one each)."""
        return replace(self, width=max(1, scale_count("width", width, self.width) // self.groups) * self.groups)


class EfficientBlock(nn.Module):
    """A residual block: ReLU(x + pointwise(ReLU(grouped(ReLU(grouped(x))))))."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, groups=groups)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, groups=groups)
        self.pointwise = nn.Conv2d(width, width, 1)
        self.shortcut, self.branch = Shortcut(), Place()
        self.hidden1, self.hidden2 = Place(signed=False), Place(signed=False)
        self.relu = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branch_input, skip = self.shortcut(x)
        branch = self.conv2(self.hidden1(F.relu(self.conv1(branch_input))))
        joined: torch.Tensor = self.relu(skip + self.branch(self.pointwise(self.hidden2(F.relu(branch)))))
        return joined


class CARNM(CARN):
    spec: CARNMSpec

    def block(self) -> Cascade:
        return Cascade(self.spec.width, [EfficientBlock(self.spec.width, self.spec.groups)])

    def upsampler_groups(self) -> int:
        return self.spec.groups


def axes(spec: CARNMSpec) -> AxisPlan:
    grouped = ("width", f"width / {spec.groups}")
    return grouped_axes(spec, {"conv1": grouped, "conv2": grouped, "pointwise": ("width", "width")}, spec.groups)


def linear(spec: CARNMSpec) -> LinearPlan:
    return cascade_plan(spec, ("conv1", "conv2", "pointwise"), shared=True)


def _read(state: State, scale: int | None) -> Reading:
    width, per_group = rows(state, "entry.weight"), columns(state, "b1.b1.body.0.weight")
    if per_group < 1 or width % per_group:
        raise SrkdError(f"b1.b1.body.0.weight has {per_group} columns, which do not divide {width} channels")
    reading = read_official(state, scale)
    return replace(reading, fields={**reading.fields, "groups": width // per_group})


BLOCK = {
    "cascade.steps.{i}.steps.0.conv1": "b{i+1}.b1.body.0",
    "cascade.steps.{i}.steps.0.conv2": "b{i+1}.b1.body.2",
    "cascade.steps.{i}.steps.0.pointwise": "b{i+1}.b1.body.4",
}
OFFICIAL = replace(
    CARN_OFFICIAL,
    name="carn_m",
    recognises=has_tensors("entry.weight", "b1.b1.body.4.weight"),
    read=_read,
    names=lambda spec, in_file: official_names(spec, in_file, BLOCK),
)

ARCHITECTURE = Architecture(
    CARNMSpec,
    CARNM,
    axes,
    linear=linear,
    quantised=tuple(f"cascade.steps.*.steps.*.{conv}" for conv in ("conv1", "conv2", "pointwise")),
    small=CARNMSpec(width=20),
    variants=(CARNMSpec(8, width=4),),
    dialects=(OFFICIAL,),
)
