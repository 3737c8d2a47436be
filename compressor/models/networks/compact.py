"""Compact, also SRVGG (Real-ESRGAN, srvgg_arch.py): plain convolutions and PReLU, used on phones.

Range [0,1], no mean. conv, PReLU, n × (conv, PReLU), conv to 3·s² channels, pixel shuffle, plus the nearest upscale
of the input. Its variants have ReLU or LeakyReLU (BasicSR), or add nothing to the shuffled image (traiNNer-redux).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, ClassVar, cast

import torch
from torch import nn
from torch.nn import functional as F

from compressor.base.errors import SrkdError, UsageError
from compressor.models.networks.axes import Axis, AxisPlan, Repeat, layer_axes
from compressor.models.networks.base import (
    Architecture,
    Descriptor,
    Network,
    Spec,
    Tap,
    require_image,
    require_positive,
)
from compressor.models.networks.chain import ConvChain
from compressor.models.networks.collapse import with_averaged_tail
from compressor.models.networks.dialect import (
    Assumption,
    Dialect,
    NotedState,
    Reading,
    State,
    columns,
    named,
    rows,
    shuffle_scale,
    weight_and_bias,
)
from compressor.models.networks.layers import conv3
from compressor.models.networks.linear_plan import FeatureStream, LinearLayer, LinearPlan, SpaceKind
from compressor.models.networks.prelu import ChannelPReLU
from compressor.models.quantisation.quantisers import Place

ACTIVATIONS = ("prelu", "relu", "leakyrelu")
LEAKY_SLOPE = 0.1
LUMA_PARTS = (0.299, 0.587, 0.114)
"""The parts of red, green and blue in luma (ITU-R BT.601)."""
STUDIO_BLACK, STUDIO_RANGE = 16 / 255, 219 / 255
"""Luma of black, and of white above it, divided by 255 (ITU-R BT.601)."""


@dataclass(frozen=True)
class CompactSpec(Spec):
    """The spec of Compact; `depth` is the number of convolutions between the first and the last.

    With `residual` the network adds the nearest upscale of its input.
    """

    arch: ClassVar[str] = "compact"
    width: int = 64
    depth: int = 16
    channels: int = 3
    act: str = "prelu"
    residual: bool = True

    def __post_init__(self) -> None:
        require_positive(self, "width", "depth")
        if self.act not in ACTIVATIONS:
            raise UsageError(f"{self.arch}: act={self.act!r} is not one of {', '.join(ACTIVATIONS)}")
        require_image(self, 1, 2, 3, 4, 8)

    @property
    def undetectable(self) -> Mapping[str, tuple[Any, ...]]:
        slopes = {} if self.act == "prelu" else {"act": ("relu", "leakyrelu")}
        return {**slopes, "residual": (True, False)}


class CompactLayer(nn.Module):
    """A layer: act(conv(x)); PReLU has one slope per channel."""

    def __init__(self, conv: nn.Module, width: int, act: str, *, signed: bool = True) -> None:
        super().__init__()
        self.conv = conv
        if act == "prelu":
            self.slope: nn.Module = ChannelPReLU(width)
        else:
            self.slope = nn.ReLU() if act == "relu" else nn.LeakyReLU(LEAKY_SLOPE)
        self.read = Place(signed=signed)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        activated: torch.Tensor = self.slope(self.conv(self.read(x)))
        return activated

    @property
    def slopes(self) -> torch.Tensor:
        """The slopes below zero, one for each channel or one for all."""
        if isinstance(self.slope, nn.PReLU):
            return self.slope.weight
        return torch.full((1,), LEAKY_SLOPE if isinstance(self.slope, nn.LeakyReLU) else 0.0)


class Compact(Network):
    spec: CompactSpec
    repeated = "layers"

    def __init__(self, spec: CompactSpec) -> None:
        super().__init__()
        self.spec = spec
        width, signed = spec.width, spec.act != "relu"
        self.head = CompactLayer(self.convolution(spec.channels, width), width, spec.act)
        layers = [self.convolution(width, width) for _ in range(spec.depth)]
        self.layers = nn.Sequential(*(CompactLayer(conv, width, spec.act, signed=signed) for conv in layers))
        self.tail = self.convolution(width, spec.channels * spec.scale**2)

    def convolution(self, inputs: int, outputs: int) -> nn.Module:
        return conv3(inputs, outputs)

    def finish(self, feature: torch.Tensor, shallow: torch.Tensor, lr: torch.Tensor) -> torch.Tensor:
        detail = F.pixel_shuffle(self.tail(feature), self.spec.scale)
        if not self.spec.residual:
            return detail
        return detail + F.interpolate(lr, scale_factor=float(self.spec.scale), mode="nearest")

    def tail_output(self, image: torch.Tensor, lr: torch.Tensor) -> torch.Tensor:
        if self.spec.residual:
            image = image - F.interpolate(lr, scale_factor=float(self.spec.scale), mode="nearest")
        return F.pixel_unshuffle(image, self.spec.scale)

    def at_scale(self, scale: int) -> Network | None:
        return with_averaged_tail(self, scale)

    def chain(self) -> ConvChain | None:
        layers = [self.head, *cast("Iterable[CompactLayer]", self.layers)]
        convolutions = [*(layer.conv for layer in layers), self.tail]
        if self.quantisation is not None or not all(isinstance(conv, nn.Conv2d) for conv in convolutions):
            return None
        slopes = tuple(layer.slopes for layer in layers)
        return ConvChain(tuple(cast("list[nn.Conv2d]", convolutions)), slopes, self.spec.residual)

    @torch.no_grad()
    def in_rgb(self) -> Network:
        """Write the weights as blocks along a diagonal, three times as wide: at 9 times the MACs."""
        if self.spec.channels == 3:
            return self
        if self.quantisation is not None:
            return super().in_rgb()
        state = {}
        for name, tensor in self.state_dict().items():
            if tensor.dim() == 1:
                state[name] = tensor.repeat(3)
            else:
                each = torch.eye(3, device=tensor.device, dtype=tensor.dtype)
                state[name] = torch.einsum("ab,oikl->aobikl", each, tensor).flatten(2, 3).flatten(0, 1)
        return self.filled(type(self)(replace(self.spec, channels=3, width=3 * self.spec.width)), state)

    @torch.no_grad()
    def in_luma(self) -> Network:
        """Sum the first layer over the colours, and weigh those of the last by their part in the luma.

        With Y = (219 y + 16) / 255 of a grey y the first convolution reads y, and the last gives its change in Y. The
        two networks differ only near the border: the zeros around a picture are black to one of them only.
        """
        if self.spec.channels != 3 or self.quantisation is not None:
            return super().in_luma()
        state = {name: tensor.clone() for name, tensor in self.state_dict().items()}
        weight, tail = state["head.conv.weight"].sum(1, keepdim=True) / STUDIO_RANGE, self.spec.scale**2
        state["head.conv.weight"] = weight
        state["head.conv.bias"] -= STUDIO_BLACK * weight.sum((1, 2, 3))
        parts = STUDIO_RANGE * torch.tensor(LUMA_PARTS, device=weight.device, dtype=weight.dtype)
        for name in ("tail.weight", "tail.bias"):
            state[name] = torch.einsum("c,cs...->s...", parts, state[name].unflatten(0, (3, tail)))
        if not self.spec.residual:
            state["tail.bias"] += STUDIO_BLACK
        return self.filled(type(self)(replace(self.spec, channels=1)), state)

    @property
    def descriptor(self) -> Descriptor:
        return Descriptor(scale=self.spec.scale, channels=self.spec.channels, receptive_radius=self.spec.depth + 2)

    @property
    def taps(self) -> dict[str, Tap]:
        last = Tap(f"layers.{self.spec.depth - 1}")
        return {**super().taps, "body_end": last, "pre_up": last}


def axes(spec: CompactSpec) -> AxisPlan:
    weights = {"tail": ("rgb", "width"), "head.conv": ("width", "colour"), "layers.*.conv": ("width", "width")}
    parameters = layer_axes(weights)
    if spec.act == "prelu":
        parameters |= {"head.slope.weight": ("width",), "layers.*.slope.weight": ("width",)}
    fixed = {"colour": Axis(spec.channels), "rgb": Axis(spec.channels * spec.scale**2)}
    return AxisPlan({"width": Axis(spec.width), **fixed}, parameters, (Repeat("layers", spec.depth),))


def linear(spec: CompactSpec) -> LinearPlan:
    """Return the linear plan: units are selected, with their slopes, as every convolution but the last is activated."""
    names = ["head", *(f"layers.{index}" for index in range(spec.depth))]
    layers = [LinearLayer(f"{name}.conv", (before,), name) for before, name in pairwise(["lr", *names])]
    layers.append(LinearLayer("tail", (names[-1],), "sr"))
    kinds: dict[str, SpaceKind] = {"lr": "fixed", **dict.fromkeys(names, "units"), "sr": "fixed"}
    fixed = {"relu": 0.0, "leakyrelu": LEAKY_SLOPE}
    slopes = {name: fixed.get(spec.act, f"{name}.slope.weight") for name in names}
    states = ((Tap("head.conv", "input"),), *((Tap(name),) for name in names[:-1]))
    stream = FeatureStream(states, tuple((name,) for name in names), (Tap("tail", "input"),), is_residual=False)
    values = {f"{name}.slope.weight": name for name in names if spec.act == "prelu"}
    return LinearPlan(tuple(layers), kinds, tuple(names[1:]), values=values, slopes=slopes, stream=stream)


def _read(state: State, scale: int | None) -> Reading:
    last = max(int(match.group(1)) for name in state if (match := re.fullmatch(r"body\.(\d+)\.weight", name)))
    if last < 4 or last % 2:
        raise SrkdError(f"its last layer is body.{last}: Compact ends with an even number from 4 on")
    channels = columns(state, "body.0.weight")
    scale = shuffle_scale(state, f"body.{last}.weight", channels)
    fields = {"width": rows(state, "body.0.weight"), "depth": (last - 2) // 2, "channels": channels, "scale": scale}
    if "body.1.weight" in state:
        return Reading(fields)
    why = "without slopes the file is of ReLU or LeakyReLU, and does not say which: --arch-option act=leakyrelu"
    return Reading({**fields, "act": "relu"}, (Assumption("act", "relu", why),))


def _names(spec: CompactSpec, in_file: set[str]) -> dict[str, str]:
    convs = {"head.conv": "body.0", "layers.{k}.conv": "body.{2*k+2}", "tail": "body.{2*k+2}"}
    slopes = {"head.slope.weight": "body.1.weight", "layers.{k}.slope.weight": "body.{2*k+3}.weight"}
    names = weight_and_bias(named(convs, k=spec.depth))
    return names | named(slopes, k=spec.depth) if spec.act == "prelu" else names


def _recognises(state: State) -> bool:
    first, slope = state.get("body.0.weight"), state.get("body.1.weight")
    if first is None or first.dim() != 4:
        return False
    if slope is None:  # no slopes: convolutions at even numbers alone
        return all(re.fullmatch(r"body\.\d*[02468]\.(weight|bias)", name) for name in state)
    return slope.dim() == 1


def _one_slope_per_channel(state: State) -> NotedState:
    """Return the state with a slope that all channels of a layer share once for each."""
    whole = dict(state)
    for name, tensor in state.items():
        match = re.fullmatch(r"body\.(\d+)\.weight", name)
        if match and tensor.shape == (1,):
            whole[name] = tensor.expand(rows(state, f"body.{int(match.group(1)) - 1}.weight"))
    return whole, ()


SRVGG = Dialect(
    name="srvgg",
    recognises=_recognises,
    read=_read,
    names=_names,
    code_bases=("basicsr",),
    community_name="compact",
    wrapping="params",
    fold=_one_slope_per_channel,
)

ARCHITECTURE = Architecture(
    CompactSpec,
    Compact,
    axes,
    linear=linear,
    quantised=("layers.*.conv",),
    small=CompactSpec(width=20, depth=3),
    variants=(
        CompactSpec(8, width=4, depth=2),
        CompactSpec(1, width=4, depth=2),
        CompactSpec(2, width=4, depth=2, channels=1),
        CompactSpec(2, width=4, depth=2, act="relu"),
        CompactSpec(3, width=4, depth=2, act="leakyrelu", residual=False),
    ),
    dialects=(SRVGG,),
    # Those of published files; l is realesr-general-x4v3, m realesr-animevideov3.
    sizes={
        "xs": {"width": 24, "depth": 8},
        "s": {"width": 64, "depth": 8},
        "m": {"width": 64, "depth": 16},
        "l": {"width": 64, "depth": 32},
    },
    # The size of Real-ESRGAN's small models.
    for_any_teacher=lambda scale, channels: CompactSpec(scale, width=64, depth=16, channels=channels),
)
