"""Plain: a student for phones. Convolutions with ReLU, a pixel shuffle, and the input's pixels as an anchor (ABPN).

It is Compact with three changes for integer units: ReLU instead of PReLU; the anchor, each pixel repeated s² times, is
added before the shuffle at the size of the input, which gives the same image as a nearest upscale behind it; and the
image is clipped to [0,1], except in training, where a clipped pixel would have no gradient.

With `branches` every convolution is trained as a sum of branches (RepVGG, ECBSR) and deployed as the 3×3 convolution
that they collapse to.

Sources: Du et al., Anchor-based Plain Net for Mobile Image Super-Resolution, 2021; Zhang et al., Edge-oriented
Convolution Block for Real-time Super Resolution on Mobile Devices, 2021.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from compressor.models.networks import compact
from compressor.models.networks.axes import AxisPlan, layer_axes
from compressor.models.networks.base import Architecture, Network
from compressor.models.networks.collapse import Kernel, in_parallel, in_series
from compressor.models.networks.compact import Compact, CompactSpec
from compressor.models.networks.layers import conv3

EXPANSION = 2
"""Channels in the longest branch for each of the layer's, as in Conv3XC of SPAN and the re-parameterised ECBSR."""


class BranchedConv(nn.Module):
    """The sum of a 3×3, a 1×1 and a 1×1 → 3×3 → 1×1 convolution, and of the input itself if `identity`.

    The branches are linear, so their kernels are summed first and one convolution runs: training takes hardly more time
    than without branches. Borders are those of branches that read one padded input, as Conv3XC's do.
    """

    def __init__(self, inputs: int, outputs: int, *, identity: bool) -> None:
        super().__init__()
        self.identity = identity
        self.main = conv3(inputs, outputs)
        self.point = nn.Conv2d(inputs, outputs, 1)
        self.expand = nn.Conv2d(inputs, EXPANSION * inputs, 1)
        self.middle = nn.Conv2d(EXPANSION * inputs, EXPANSION * outputs, 3)
        self.project = nn.Conv2d(EXPANSION * outputs, outputs, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # The sum is of the weights' own precision, whatever the convolution computes in.
        with nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False):
            weight, bias = in_parallel(_kernel(self.main), *self._others())
        return F.conv2d(x, weight, bias, padding=1)

    def collapsed(self) -> Kernel:
        """Return the kernel of the convolution that computes the same, in float64."""
        return in_parallel(_kernel(self.main, torch.float64), *self._others(torch.float64))

    def fill(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        """Set the 3×3 branch so that all branches together are this convolution."""
        others = in_parallel(*self._others(torch.float64))
        self.main.weight.copy_(weight - others.weight)
        assert self.main.bias is not None
        self.main.bias.copy_(bias - others.bias)

    def _others(self, dtype: torch.dtype | None = None) -> list[Kernel]:
        chain = (self.expand, self.middle, self.project)
        branches = [_kernel(self.point, dtype), in_series(*(_kernel(conv, dtype) for conv in chain))]
        if self.identity:
            bias = torch.zeros_like(branches[0].bias)
            branches.append(Kernel(torch.diag(bias + 1)[:, :, None, None], bias))
        return branches


def _kernel(conv: nn.Conv2d, dtype: torch.dtype | None = None) -> Kernel:
    assert conv.bias is not None
    return Kernel(conv.weight.to(dtype), conv.bias.to(dtype))


@dataclass(frozen=True)
class PlainSpec(CompactSpec):
    """The spec of Plain; with `residual` it adds the anchor, and `branches` exist in training only."""

    arch: ClassVar[str] = "plain"
    width: int = 32
    depth: int = 4
    act: str = "relu"
    branches: bool = False

    @property
    def deployed(self) -> PlainSpec:
        return replace(self, branches=False)


class Plain(Compact):
    spec: PlainSpec
    copies: torch.Tensor
    """A 1×1 convolution that repeats each pixel s² times: exact, also in eight bits, and every runtime has it."""

    def __init__(self, spec: PlainSpec) -> None:
        super().__init__(spec)
        copies = torch.eye(spec.channels).repeat_interleave(spec.scale**2, 0)
        self.register_buffer("copies", copies[:, :, None, None], persistent=False)

    def convolution(self, inputs: int, outputs: int) -> nn.Module:
        if not self.spec.branches:
            return super().convolution(inputs, outputs)
        return BranchedConv(inputs, outputs, identity=inputs == outputs == self.spec.width)

    def finish(self, feature: torch.Tensor, shallow: torch.Tensor, lr: torch.Tensor) -> torch.Tensor:
        spread = self.tail(feature)
        if self.spec.residual:
            spread = spread + F.conv2d(lr, self.copies)
        sr = F.pixel_shuffle(spread, self.spec.scale)
        return sr if self.training else sr.clamp(0, 1)

    def at_scale(self, scale: int) -> Network | None:
        return self.deployed().at_scale(scale) if self.spec.branches else super().at_scale(scale)

    @torch.no_grad()
    def unclipped(self) -> Network:
        """Return Compact with ReLU, whose nearest upscale gives the image of the anchor."""
        if self.spec.branches or self.quantisation is not None:
            return self
        compact_spec = CompactSpec(**{field.name: getattr(self.spec, field.name) for field in fields(CompactSpec)})
        return self.filled(Compact(compact_spec), self.state_dict())

    @torch.no_grad()
    def deployed(self) -> Network:
        if not self.spec.branches:
            return self
        state = self.state_dict()
        for name, conv in _branched(self):
            for branch in [entry for entry in state if entry.startswith(f"{name}.")]:
                del state[branch]
            state[f"{name}.weight"], state[f"{name}.bias"] = conv.collapsed()
        return self.filled(type(self)(self.spec.deployed), state)

    @torch.no_grad()
    def fill(self, deployed: Network) -> None:
        state = deployed.state_dict()
        for name, conv in _branched(self):
            conv.fill(state.pop(f"{name}.weight"), state.pop(f"{name}.bias"))
        self.load_state_dict(state | {name: value for name, value in self.state_dict().items() if name not in state})


def _branched(network: nn.Module) -> list[tuple[str, BranchedConv]]:
    return [(name, module) for name, module in network.named_modules() if isinstance(module, BranchedConv)]


def axes(spec: PlainSpec) -> AxisPlan:
    plan = compact.axes(spec)
    if not spec.branches:
        return plan
    weights: dict[str, tuple[str, ...]] = {}
    for name, expressions in plan.parameters.items():
        layer, _, kind = name.rpartition(".")
        if kind != "weight" or len(expressions) == 1:  # the entry of its bias, or slopes
            continue
        rows, columns = expressions
        more_rows, more_columns = (f"{axis} * {EXPANSION}" for axis in expressions)
        weights |= {
            f"{layer}.main": (rows, columns),
            f"{layer}.point": (rows, columns),
            f"{layer}.expand": (more_columns, columns),
            f"{layer}.middle": (more_rows, more_columns),
            f"{layer}.project": (rows, more_rows),
        }
    slopes = {name: expressions for name, expressions in plan.parameters.items() if "slope" in name}
    return replace(plan, parameters={**layer_axes(weights), **slopes})


ARCHITECTURE = Architecture(
    PlainSpec,
    Plain,
    axes,
    linear=compact.linear,
    quantised=("layers.*.conv",),
    small=PlainSpec(width=20, depth=3),
    sizes={
        "xs": {"width": 16, "depth": 3},
        "s": {"width": 32, "depth": 4},
        "m": {"width": 48, "depth": 6},
        "l": {"width": 64, "depth": 8},
    },
    for_any_teacher=lambda scale, channels: PlainSpec(scale, width=64, depth=16, channels=channels),
    variants=(
        PlainSpec(8, width=4, depth=2),
        PlainSpec(1, width=4, depth=2),
        PlainSpec(2, width=4, depth=2, channels=1, residual=False),
        PlainSpec(3, width=4, depth=2, branches=True),
    ),
)
