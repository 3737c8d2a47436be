"""SPANF3 (traiNNer-redux, archs/spanf3_arch.py): SPAN with ReLU, a trained gate, and an image unshuffled before it.

Range [0,1], no mean. At ×1 and ×2 the image is mirrored to a multiple of u = 4/scale and its u×u pixels become
channels; the network then enlarges ×4, and the padding is cut off. A spec with u = 1 does neither.

    block    (x + h)·tanh(attention(h)),   h = c3(ReLU(c2(ReLU(c1(x)))))
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import nn

from compressor.base.errors import SrkdError, UsageError
from compressor.models.networks.axes import AxisPlan
from compressor.models.networks.base import Architecture, Descriptor, Spec, Tap
from compressor.models.networks.dialect import (
    Dialect,
    Reading,
    State,
    columns,
    has_tensors,
    named,
    rows,
    shuffle_scale,
    weight_and_bias,
)
from compressor.models.networks.linear_plan import HeldGate, LinearPlan
from compressor.models.networks.span import (
    TRUNK,
    SpanBlock,
    SpanNetwork,
    collapsed,
    count_blocks,
    require_sizes,
    trunk_axes,
    trunk_linear,
    with_branches,
)

GATES = ("attention",)
OPEN = 3.0
"""Bias of a gate's layer at the start, without weights: the gate is tanh(3) = 0.995."""


@dataclass(frozen=True)
class SPANF3Spec(Spec):
    """The spec of SPANF3: `unshuffle` is u, the side of the squares of pixels that become channels."""

    arch: ClassVar[str] = "spanf3"
    width: int = 64
    depth: int = 8
    channels: int = 3
    unshuffle: int = 1

    def __post_init__(self) -> None:
        require_sizes(self)
        if self.unshuffle != 1 and self.unshuffle * self.scale != 4:
            raise UsageError(f"spanf3: unshuffle={self.unshuffle} is neither 1 nor 4/{self.scale}")


class SpanF3Block(SpanBlock):
    """A block of SPANF3; it starts with an open gate."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.attention = nn.Conv2d(width, width, 1)
        with torch.no_grad():
            self.attention.weight.zero_()
            assert self.attention.bias is not None
            self.attention.bias.fill_(OPEN)

    def activated(self) -> tuple[nn.Module, bool]:
        return nn.ReLU(), False

    def gate(self, branch: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.attention(branch))


class SPANF3(SpanNetwork):
    spec: SPANF3Spec

    def __init__(self, spec: SPANF3Spec) -> None:
        super().__init__(spec, (SpanF3Block(spec.width) for _ in range(spec.depth)), nn.Identity)

    @property
    def descriptor(self) -> Descriptor:
        return self.bounded(3 * self.spec.depth + 2, self.spec.unshuffle - 1)


def axes(spec: SPANF3Spec) -> AxisPlan:
    return trunk_axes(spec, side=spec.unshuffle, has_end=False, gates=GATES)


def linear(spec: SPANF3Spec) -> LinearPlan:
    """Return the linear plan. With its first gates a block is (h + x)·tanh(3): another network's stream passes."""
    plan = trunk_linear(spec.depth, has_end=False, gates=GATES)
    layers = []
    for layer in plan.layers:
        block, _, conv = layer.name.rpartition(".")
        if conv == "c3":
            at, gain = Tap(f"{block}.joined"), math.tanh(OPEN)
            layer = replace(layer, held=HeldGate(f"{block}.attention", bias=OPEN, at=at, gain=gain))
        layers.append(layer)
    hidden = [layer.output for layer in layers if layer.name.endswith((".c1", ".c2"))]
    return replace(plan, layers=tuple(layers), slopes=dict.fromkeys(hidden, 0.0))


def _read(state: State, scale: int | None) -> Reading:
    # The first layer is the second module after an unshuffle.
    is_unshuffled = any(name.startswith("conv_1.1.") for name in state)
    head = f"{'conv_1.1' if is_unshuffled else 'conv_1'}.eval_conv.weight"
    inputs = columns(state, head)
    # 12 and 48 columns are 3 channels in squares of 2 and 4; 4 and 16 are one channel.
    squares = {4: (1, 2), 12: (3, 2), 16: (1, 4), 48: (3, 4)} if is_unshuffled else {1: (1, 1), 3: (3, 1)}
    if inputs not in squares:
        raise SrkdError(f"{head} has {inputs} columns, not {' or '.join(map(str, squares))}")
    channels, unshuffle = squares[inputs]
    inner = shuffle_scale(state, "to_pixel.eval_conv.weight", channels)
    if inner % unshuffle:
        raise SrkdError(f"an image unshuffled by {unshuffle} is not enlarged ×{inner} again")
    fields = {
        "width": rows(state, head),
        "depth": count_blocks(state),
        "channels": channels,
        "unshuffle": unshuffle,
        "scale": inner // unshuffle,
    }
    return Reading(fields)


def _names(spec: SPANF3Spec, in_file: set[str]) -> dict[str, str]:
    head = "conv_1.1" if spec.unshuffle > 1 else "conv_1"
    ends = {"head": f"{head}.eval_conv", "tail": "to_pixel.eval_conv"}
    gates = {"trunk.blocks.{k}.attention": "block_{k+1}.att_conv"}
    return weight_and_bias(named(ends | TRUNK | gates, k=spec.depth, i=3))


def _dialect(name: str, mark: str, **options: Any) -> Dialect:
    marks = (f"block_1.c1_r.{mark}.weight", "block_1.att_conv.weight", f"to_pixel.{mark}.weight")
    return Dialect(name, has_tensors(*marks), _read, _names, code_bases=(name,), **options)


_SMALL = SPANF3Spec(width=20, depth=3)

ARCHITECTURE = Architecture(
    SPANF3Spec,
    SPANF3,
    axes,
    linear=linear,
    quantised=tuple(f"trunk.blocks.*.{conv}" for conv in ("c1", "c2", "c3", *GATES)),
    small=_SMALL,
    variants=(
        replace(_SMALL, scale=8, width=4, depth=2),
        replace(_SMALL, scale=2, width=4, depth=1, unshuffle=2),
        replace(_SMALL, scale=1, width=4, depth=1, unshuffle=4, channels=1),
    ),
    dialects=(
        _dialect("spanf3", "sk", wrapping="params", fold=collapsed, unfold=with_branches),
        _dialect("spanf3-collapsed", "eval_conv"),
    ),
)
