"""RRDBNet: ESRGAN, Real-ESRGAN, BSRGAN, and most models that people share (basicsr/archs/rrdbnet_arch.py).

Range [0,1], no mean, no enlarged input added. LeakyReLU has the slope 0.2:

    dense block    x1 = lrelu(c1(x)), x2 = lrelu(c2[x, x1]), …, x4;   x + 0.2·c5[x, x1, …, x4]
    block          x + 0.2·(three dense blocks)(x)
    end            + head, then nearest ×2 and lrelu(conv) for each doubling, lrelu(hr), tail

BasicSR's ×2 and ×1 are the ×4 network behind an unshuffle of the image by 2 and 4; ESRGAN's own have fewer doublings.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, ClassVar, TypeVar

import torch
from torch import nn
from torch.nn import functional as F

from compressor.base.errors import SrkdError, UsageError
from compressor.models.networks.axes import Axis, AxisPlan, Repeat, layer_axes
from compressor.models.networks.base import (
    Architecture,
    Descriptor,
    Spec,
    Tap,
    require_image,
    require_positive,
    scale_count,
)
from compressor.models.networks.dialect import (
    Dialect,
    Reading,
    State,
    columns,
    count_layers,
    filled,
    has_names,
    has_tensors,
    named,
    rows,
    weight_and_bias,
)
from compressor.models.networks.layers import conv3
from compressor.models.networks.linear_plan import LinearLayer, LinearPlan, SpaceKind
from compressor.models.networks.unshuffle import UnshufflingNetwork

S = TypeVar("S", bound="RRDBNetSpec")
SLOPE, RESIDUAL = 0.2, 0.2
DENSE = (1, 2, 3)
"""The dense blocks of a block, by the numbers in names of files."""
CONVS = (1, 2, 3, 4, 5)


@dataclass(frozen=True)
class RRDBNetSpec(Spec):
    """The spec of RRDBNet: `growth` channels per layer of a dense block; `unshuffle` as in SPANF3."""

    arch: ClassVar[str] = "rrdbnet"
    width: int = 64
    depth: int = 23
    growth: int = 32
    channels: int = 3
    unshuffle: int = 1

    def __post_init__(self) -> None:
        require_positive(self, "width", "depth", "growth")
        require_image(self, 1, 2, 3, 4, 8)
        if self.unshuffle not in (1, 2, 4) or (self.unshuffle > 1 and self.scale not in (1, 2, 4)):
            raise UsageError(f"rrdbnet: unshuffle={self.unshuffle} at x{self.scale} is none of 1, 2, 4")

    @property
    def undetectable(self) -> Mapping[str, tuple[Any, ...]]:
        """One step of the upsampler may enlarge two or three times: its tensors are the same."""
        return {"scale": ()} if self.scale * self.unshuffle in (2, 3) else {}

    @property
    def ups(self) -> tuple[int, ...]:
        """The factors of the upsampler's steps."""
        factor = self.scale * self.unshuffle
        return (3,) if factor == 3 else (2,) * (factor.bit_length() - 1)

    def narrowed(self: S, width: float) -> S:
        """Return the spec with a fraction of the channels of the stream and of the dense blocks."""
        sizes = {name: scale_count(name, width, getattr(self, name)) for name in ("width", "growth")}
        return replace(self, **sizes)


class DenseBlock(nn.Module):
    """Five convolutions, each of which reads all before it."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        for number in CONVS:
            outputs = growth if number < CONVS[-1] else width
            self.add_module(f"conv{number}", conv3(width + (number - 1) * growth, outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        known = [x]
        for number in CONVS[:-1]:
            known.append(F.leaky_relu(self.get_submodule(f"conv{number}")(torch.cat(known, 1)), SLOPE))
        change: torch.Tensor = self.get_submodule(f"conv{CONVS[-1]}")(torch.cat(known, 1))
        return x + RESIDUAL * change


class Block(nn.Module):
    """A residual block of three dense blocks."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.dense = nn.Sequential(*(DenseBlock(width, growth) for _ in DENSE))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        change: torch.Tensor = self.dense(x)
        return x + RESIDUAL * change


class NearestSteps(nn.Module):
    """For each step the nearest enlargement and a convolution, then one at the full size, each with LeakyReLU."""

    def __init__(self, width: int, factors: tuple[int, ...]) -> None:
        super().__init__()
        self.factors = factors
        self.convs = nn.ModuleList(conv3(width, width) for _ in factors)
        self.hr = conv3(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for factor, conv in zip(self.factors, self.convs, strict=True):
            x = F.leaky_relu(conv(F.interpolate(x, scale_factor=float(factor), mode="nearest")), SLOPE)
        return F.leaky_relu(self.hr(x), SLOPE)


class RRDBNet(UnshufflingNetwork):
    spec: RRDBNetSpec

    def __init__(self, spec: RRDBNetSpec) -> None:
        super().__init__()
        self.spec = spec
        self.head = conv3(spec.channels * spec.unshuffle**2, spec.width)
        self.blocks = nn.Sequential(*(Block(spec.width, spec.growth) for _ in range(spec.depth)))
        self.body_end = conv3(spec.width, spec.width)
        self.upsampler = NearestSteps(spec.width, spec.ups)
        self.tail = conv3(spec.width, spec.channels)

    def finish(self, feature: torch.Tensor, shallow: torch.Tensor, lr: torch.Tensor) -> torch.Tensor:
        return self.cropped(self.tail(self.upsampler(self.body_end(feature) + shallow)), lr)

    def tail_output(self, image: torch.Tensor, lr: torch.Tensor) -> torch.Tensor:
        return image

    @property
    def descriptor(self) -> Descriptor:
        furthest = 0  # pixels before its own that the upsampler and the tail read for a pixel of the image, at most
        for pixel in range(math.prod(self.spec.ups)):
            position = pixel - 2  # hr and tail
            for factor in reversed(self.spec.ups):
                position = (position - 1) // factor
            furthest = max(furthest, -position)
        return self.bounded(15 * self.spec.depth + 2 + furthest)


def axes(spec: RRDBNetSpec) -> AxisPlan:
    weights = {
        "head": ("width", "colour"),
        **dict.fromkeys(("body_end", "upsampler.convs.*", "upsampler.hr"), ("width", "width")),
        "tail": ("rgb", "width"),
    }
    for number in CONVS:
        inputs = " | ".join(["width", *["growth"] * (number - 1)])
        weights[f"blocks.*.dense.*.conv{number}"] = ("growth" if number < CONVS[-1] else "width", inputs)
    sizes = {
        "width": Axis(spec.width),
        "growth": Axis(spec.growth, local=True),
        "colour": Axis(spec.channels * spec.unshuffle**2),
        "rgb": Axis(spec.channels),
    }
    return AxisPlan(sizes, layer_axes(weights), (Repeat("blocks", spec.depth),))


def linear(spec: RRDBNetSpec) -> LinearPlan:
    """Return the linear plan: the stream is linear, the channels of dense blocks and of the upsampler are units."""
    layers = [LinearLayer("head", ("lr",), "stream")]
    kinds: dict[str, SpaceKind] = {"lr": "fixed", "stream": "linear"}
    for index, dense in product(range(spec.depth), range(len(DENSE))):
        block, known = f"blocks.{index}.dense.{dense}", ["stream"]
        for number in CONVS[:-1]:
            units = f"{block}.x{number}"
            layers.append(LinearLayer(f"{block}.conv{number}", tuple(known), units))
            known.append(units)
        is_last = dense == len(DENSE) - 1  # its output is added to the block's input, too
        at, gain = (Tap(f"blocks.{index}"), RESIDUAL**2) if is_last else (Tap(block), RESIDUAL)
        layers.append(LinearLayer(f"{block}.conv{CONVS[-1]}", tuple(known), "stream", at=at, gain=gain))
        kinds |= dict.fromkeys(known[1:], "units")
    layers.append(LinearLayer("body_end", ("stream",), "stream", at=Tap("upsampler", "input")))
    last = "stream"
    for name in (*(f"upsampler.convs.{k}" for k in range(len(spec.ups))), "upsampler.hr"):
        layers.append(LinearLayer(name, (last,), name))
        kinds[name], last = "units", name
    kinds["sr"] = "fixed"
    slopes = {space: SLOPE for space, kind in kinds.items() if kind == "units"}
    blocks = tuple(f"blocks.{index}" for index in range(spec.depth))
    tail = LinearLayer("tail", (last,), "sr")
    return LinearPlan((*layers, tail), kinds, blocks, slopes=slopes, image_layers=len(spec.ups) + 2)


CONV, STEP = "blocks.{i}.dense.{d}.conv{c+1}", "upsampler.convs.{k}"
OLD = {
    "head": "model.0",
    "body_end": "model.1.sub.{i}",
    "tail": "model.{3*k+4}",
    STEP: "model.{3*k+3}",
    "upsampler.hr": "model.{3*k+2}",
    CONV: "model.1.sub.{i}.RDB{d+1}.conv{c+1}.0",
}
NEW = {
    "head": "conv_first",
    "body_end": "trunk_conv",
    "tail": "conv_last",
    STEP: "upconv{k+1}",
    "upsampler.hr": "HRconv",
    CONV: "RRDB_trunk.{i}.RDB{d+1}.conv{c+1}",
}
BASICSR = {
    "head": "conv_first",
    "body_end": "conv_body",
    "tail": "conv_last",
    STEP: "conv_up{k+1}",
    "upsampler.hr": "conv_hr",
    CONV: "body.{i}.rdb{d+1}.conv{c+1}",
}


def _dialect(name: str, layers: Mapping[str, str], *code_bases: str, **options: Any) -> Dialect:
    head, first = (f"{filled(layers[layer], {'i': 0, 'd': 0, 'c': 0})}.weight" for layer in ("head", CONV))

    def read(state: State, scale: int | None) -> Reading:
        depth = count_layers(state, layers[CONV], d=0, c=0)
        steps = next(k for k in range(len(state) + 1) if f"{filled(layers[STEP], {'k': k})}.weight" not in state)
        channels, inputs = rows(state, f"{filled(layers['tail'], {'k': steps})}.weight"), columns(state, head)
        sides = {channels * side**2: side for side in (1, 2, 4)}
        if inputs not in sides:
            raise SrkdError(
                f"{head} has {inputs} columns for {channels} channels, not 1, 4 or 16 for each: a variant for videos "
                "or with more inputs"
            )
        factor = 3 if scale == 3 and steps == 1 else 2**steps
        if factor % sides[inputs]:
            raise SrkdError(f"an image unshuffled by {sides[inputs]} is not enlarged x{factor} again")
        fields = {
            "width": rows(state, head),
            "growth": rows(state, first),
            "depth": depth,
            "channels": channels,
            "unshuffle": sides[inputs],
            "scale": factor // sides[inputs],
        }
        return Reading(fields)

    def names(spec: RRDBNetSpec, in_file: set[str]) -> dict[str, str]:
        return weight_and_bias(named(layers, i=spec.depth, d=len(DENSE), c=len(CONVS), k=len(spec.ups)))

    return Dialect(name, has_tensors(head, first), read, names, code_bases=(*code_bases, name), **options)


def _shuffles(state: State) -> bool:
    """Return True for an old generator whose upsampler is a convolution to four times the channels and a shuffle."""
    first, up = state.get("model.0.weight"), state.get("model.3.weight")
    is_dense = "model.1.sub.0.RDB1.conv1.0.weight" in state and first is not None and up is not None
    return is_dense and first.dim() == up.dim() == 4 and len(up) == 4 * len(first)  # type: ignore[union-attr, arg-type]


_SMALL = RRDBNetSpec(width=20, growth=10, depth=3)

ARCHITECTURE = Architecture(
    RRDBNetSpec,
    RRDBNet,
    axes,
    linear=linear,
    relatives={
        "ESRGAN+": has_names(r"\.RDB\d\.conv1x1\.|\.rdb\d\.conv1x1\."),
        "ESRGAN with a pixel shuffle": _shuffles,
        "ESRGAN with norms": has_names(r"\.RDB\d\.conv\d\.1\.weight$"),
        "discriminator of Real-ESRGAN": has_tensors("conv0.weight", "conv1.weight_orig", "conv9.weight"),
    },
    quantised=tuple(f"blocks.*.dense.*.conv{number}" for number in CONVS),
    small=_SMALL,
    variants=(
        replace(_SMALL, scale=2, width=6, growth=4, depth=1, unshuffle=2),
        replace(_SMALL, scale=1, width=6, growth=4, depth=1, unshuffle=4),
        replace(_SMALL, scale=1, width=6, growth=4, depth=1, channels=1),
    ),
    dialects=(
        _dialect("real-esrgan", BASICSR, "basicsr", wrapping="params"),
        _dialect("esrgan", NEW, community_name="esrgan"),
        _dialect("esrgan-old", OLD),
    ),
)
