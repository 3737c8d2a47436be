"""PlainSR: convolutions and ReLU, then a pixel shuffle. Example of another package's network, in one file.

Its entry point:

    [project.entry-points."srkd.networks"]
    plainsr = "plainsr:ARCHITECTURE"
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from compressor.models.networks.axes import Axis, AxisPlan, Repeat, layer_axes
from compressor.models.networks.base import (
    Architecture,
    Descriptor,
    Network,
    PublishedSettings,
    Spec,
    Tap,
    require_positive,
)
from compressor.models.networks.dialect import Dialect, Reading, State, count, named, rows, weight_and_bias


@dataclass(frozen=True)
class PlainSpec(Spec):
    arch: ClassVar[str] = "plainsr"
    width: int = 16
    depth: int = 4

    def __post_init__(self) -> None:
        require_positive(self, "scale", "width", "depth")


class PlainSR(Network):
    spec: PlainSpec
    repeated = "layers"

    def __init__(self, spec: PlainSpec) -> None:
        super().__init__()
        self.spec = spec
        self.head = nn.Conv2d(3, spec.width, 3, padding=1)
        self.layers = nn.Sequential(
            *(nn.Sequential(nn.Conv2d(spec.width, spec.width, 3, padding=1), nn.ReLU()) for _ in range(spec.depth))
        )
        self.tail = nn.Conv2d(spec.width, 3 * spec.scale**2, 3, padding=1)

    def finish(self, feature: torch.Tensor, shallow: torch.Tensor, lr: torch.Tensor) -> torch.Tensor:
        return F.pixel_shuffle(self.tail(feature + shallow), self.spec.scale)

    @property
    def descriptor(self) -> Descriptor:
        return Descriptor(scale=self.spec.scale, receptive_radius=self.spec.depth + 2)

    @property
    def taps(self) -> dict[str, Tap]:
        return {**super().taps, "body_end": Tap("layers"), "pre_up": Tap("tail", "input")}


def axes(spec: PlainSpec) -> AxisPlan:
    weights = {"head": ("width", "rgb"), "layers.*.0": ("width", "width"), "tail": ("shuffled", "width")}
    sizes = {"width": Axis(spec.width), "rgb": Axis(3), "shuffled": Axis(3 * spec.scale**2)}
    return AxisPlan(sizes, layer_axes(weights), (Repeat("layers", spec.depth),))


def _read(state: State, scale: int | None) -> Reading:
    outputs = rows(state, "last.weight")
    return Reading(
        {
            "width": rows(state, "first.weight"),
            "depth": count(state, r"middle\.(\d+)\.0\.weight"),
            "scale": int((outputs // 3) ** 0.5),
        }
    )


def _names(spec: PlainSpec, in_file: set[str]) -> dict[str, str]:
    layers = {"head": "first", "layers.{k}.0": "middle.{k}.0", "tail": "last"}
    return weight_and_bias(named(layers, k=spec.depth))


ARCHITECTURE = Architecture(
    PlainSpec,
    PlainSR,
    axes,
    small=PlainSpec(scale=4, width=20, depth=3),
    dialects=(
        Dialect(
            name="plain-trainer",
            recognises=lambda state: "first.weight" in state and "middle.0.0.weight" in state,
            read=_read,
            names=_names,
            code_bases=("plain-trainer",),
        ),
    ),
    published=(PublishedSettings({"fakd.taps": ("head", "body[1]", "pre_up")}, where={"depth": 4}),),
)
