"""EDSR (Lim et al., 2017): residual blocks without batch norm between a head and a pixel-shuffle tail.

Code followed: BasicSR edsr_arch.py, EDSR-PyTorch src/model/edsr.py. No activation in the upsampler; the body's last
convolution is not scaled; the long skip adds the head's output.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from compressor.models.networks.axes import Axis, AxisPlan, Repeat, layer_axes
from compressor.models.networks.base import Architecture, Descriptor, PublishedSettings, Tap, require_positive
from compressor.models.networks.dialect import Assumption, Dialect, State, count_layers, rows
from compressor.models.networks.edsr_family import (
    BASICSR_ENDS,
    CSD_ENDS,
    OFFICIAL_ENDS,
    LongSkipNetwork,
    ShiftedSpec,
    long_skip_axes,
    long_skip_dialect,
    long_skip_plan,
)
from compressor.models.networks.layers import ResidualBlock, upsampler_reach
from compressor.models.networks.linear_plan import LinearLayer, LinearPlan


@dataclass(frozen=True)
class EDSRSpec(ShiftedSpec):
    """The spec of EDSR. No file holds `res_scale`: 0.1 for 256 channels and DUKD's and CSD's 32/64 students, else 1."""

    arch: ClassVar[str] = "edsr"
    depth: int = 16
    res_scale: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "depth", limit=1024)

    @property
    def undetectable(self) -> Mapping[str, tuple[Any, ...]]:
        return {**super().undetectable, "res_scale": (1.0, 0.1)}


class EDSR(LongSkipNetwork):
    spec: EDSRSpec

    def __init__(self, spec: EDSRSpec) -> None:
        super().__init__(spec, (ResidualBlock(spec.width, spec.res_scale) for _ in range(spec.depth)))

    @property
    def descriptor(self) -> Descriptor:
        radius = 1 + 2 * self.spec.depth + 1 + upsampler_reach(self.spec.scale)
        return Descriptor(scale=self.spec.scale, receptive_radius=math.ceil(radius))


def axes(spec: EDSRSpec) -> AxisPlan:
    convs = dict.fromkeys(("blocks.*.conv1", "blocks.*.conv2"), ("width", "width"))
    weights = {**long_skip_axes(spec.scale), **convs}
    return AxisPlan({"width": Axis(spec.width), "rgb": Axis(3)}, layer_axes(weights), (Repeat("blocks", spec.depth),))


def linear(spec: EDSRSpec) -> LinearPlan:
    """Return the linear plan. The stream with its long skip is linear."""
    blocks = [f"blocks.{index}" for index in range(spec.depth)]
    hidden = [f"{block}.hidden" for block in blocks]
    body: list[LinearLayer] = []
    for block, units in zip(blocks, hidden, strict=True):
        body.append(LinearLayer(f"{block}.conv1", ("stream",), units))
        body.append(LinearLayer(f"{block}.conv2", (units,), "stream", at=Tap(block), gain=spec.res_scale))
    states = [(Tap(block), Tap("head")) for block in blocks]
    return long_skip_plan(spec.scale, "linear", body, hidden, blocks, states, [(units,) for units in hidden])


def _dialect(
    name: str, layers: Mapping[str, str], *code_bases: str, res_scale: Assumption | None = None, **options: Any
) -> Dialect:
    def sizes(state: State) -> tuple[Mapping[str, Any], tuple[Assumption, ...]]:
        width = rows(state, f"{layers['head']}.weight")
        value = 0.1 if width >= 256 else 1.0
        why = f"not in the file; published EDSR of {width} channels uses {value:g}"
        assumed = res_scale or Assumption("res_scale", value, why)
        first = layers["blocks.{b}.conv1"]
        parts = (1, 2, 3) if "{part}" in first else (1,)
        depth = sum(count_layers(state, first, part=part) for part in parts)
        return {"depth": depth, "res_scale": assumed.value}, (assumed,)

    return long_skip_dialect(name, layers, sizes, lambda spec: {"b": spec.depth}, *code_bases, **options)


def _fakd_names(spec: EDSRSpec, in_file: set[str]) -> dict[str, str]:
    """Return the names of FAKD (code/models/edsr.py), whose blocks are in parts that end at ⌊n/3⌋, ⌊2n/3⌋ and n."""
    starts = [part * spec.depth // 3 for part in range(3)]

    def in_part(match: re.Match[str]) -> str:
        index = int(match[1])
        part = max(part for part in range(3) if starts[part] <= index)
        return f"body{part + 1}.{index - starts[part]}"

    names = EDSR_PYTORCH.names(spec, in_file)
    return {here: re.sub(r"^body\.(\d+)", in_part, there) for here, there in names.items()}


OFFICIAL = {
    **OFFICIAL_ENDS,
    "body_end": "body.{b}",
    "blocks.{b}.conv1": "body.{b}.body.0",
    "blocks.{b}.conv2": "body.{b}.body.2",
}
NAMED = {"blocks.{b}.conv1": "body.{b}.conv1", "blocks.{b}.conv2": "body.{b}.conv2"}
EDSR_PYTORCH = _dialect(
    "edsr-pytorch", OFFICIAL, "edsr-pytorch", "rcan", marks=("head.0.weight", "body.0.body.0.weight")
)
FAKD = _dialect(
    "fakd",
    {**OFFICIAL, "blocks.{b}.conv1": "body{part}.{b}.body.0"},
    "fakd",
    marks=("head.0.weight", "body3.0.body.0.weight"),
)

ARCHITECTURE = Architecture(
    EDSRSpec,
    EDSR,
    axes,
    linear=linear,
    quantised=("blocks.*.conv1", "blocks.*.conv2"),
    small=EDSRSpec(width=20, depth=3),
    variants=(EDSRSpec(8, width=4, depth=2),),
    dialects=(
        EDSR_PYTORCH,
        _dialect(
            "basicsr",
            {**BASICSR_ENDS, **NAMED},
            "basicsr",
            marks=("conv_first.weight", "body.0.conv1.weight"),
            wrapping="params",
            mean_in_file=False,
        ),
        _dialect(
            "csd",
            {"head": "head", **CSD_ENDS, **NAMED},
            "csd",
            marks=("body_conv.weight", "body.0.conv1.weight"),
            wrapping="model_state_dict > module.*",
            res_scale=Assumption("res_scale", 0.1, "not in the file; CSD's default at every width (option.py)"),
        ),
        replace(FAKD, names=_fakd_names),
    ),
    # The option files of DUKD's code (yun224/DUKD, options/).
    published=tuple(
        PublishedSettings(
            {"dukd.pixel_weight": 5.0, "dukd.probability": 0.3, "dukd.zoom_out": "on", "dukd.cells": cells},
            where={"scale": scale},
        )
        for scale, cells in ((2, 2), (3, 1), (4, 1))
    ),
)
