"""SPAN (Wan et al., 2024): blocks of three convolutions whose output gates itself, a parameter-free attention.

Code followed: hongyuanyu/SPAN, basicsr/archs/span_arch.py. Its Conv3XC layers are held as the 3×3 convolutions that
they collapse to. The official block activates in place, so that the last block's first feature, which the fusion reads,
is the activated one. There is no image skip, and nothing leaves the range of 0..255 behind: the last convolution does.

    block    (h + x)·(sigmoid(h) - 1/2),   h = c3(SiLU(c2(SiLU(c1(x)))))
    trunk    fuse(concat(x, end(o_n), o_1, SiLU(c1 of block n))),   o_k: output of block k, o_0 = x

This file also holds what SPANF3 shares: the trunk, its axes and linear layers, and the folding of Conv3XC.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from compressor.base.errors import UsageError
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
from compressor.models.networks.collapse import Kernel, in_parallel, in_series, with_averaged_tail
from compressor.models.networks.dialect import (
    Assumption,
    Dialect,
    NotedState,
    Reading,
    State,
    columns,
    count,
    has_names,
    has_tensors,
    named,
    rows,
    shuffle_scale,
    weight_and_bias,
)
from compressor.models.networks.layers import DIV2K_MEAN, MeanShift, conv3
from compressor.models.networks.linear_plan import LinearLayer, LinearPlan, OwnGate, SpaceKind
from compressor.models.networks.unshuffle import UnshufflingNetwork
from compressor.models.quantisation.quantisers import Place, Shortcut

NO_MEAN = (0.0, 0.0, 0.0)
BEND = 4.0
"""Distance from zero at which SiLU is as good as ReLU, and a gate as good as open."""

STALE = 1e-4
"""Share of the largest value by which a file's collapsed convolution may differ from its branches unmentioned."""


@dataclass(frozen=True)
class SPANSpec(Spec):
    """The spec of SPAN; `depth` is the number of blocks. Without normalisation, mean is 0 and img_range is 1."""

    arch: ClassVar[str] = "span"
    width: int = 48
    depth: int = 6
    channels: int = 3
    mean: tuple[float, ...] = DIV2K_MEAN
    img_range: float = 255.0

    def __post_init__(self) -> None:
        require_sizes(self)
        if not self.img_range > 0:
            raise UsageError(f"span: img_range={self.img_range:g} is not above 0")

    @property
    def undetectable(self) -> Mapping[str, tuple[Any, ...]]:
        return {"img_range": (255.0, 1.0), "mean": () if self.unused else (DIV2K_MEAN, NO_MEAN)}

    @property
    def unused(self) -> frozenset[str]:
        return frozenset() if self.channels == 3 else frozenset({"mean"})

    @property
    def has_norm(self) -> bool:
        return self.img_range != 1 or (self.channels == 3 and self.mean != NO_MEAN)


def require_sizes(spec: Any) -> None:
    require_positive(spec, "width")
    require_positive(spec, "depth", limit=1024)
    require_image(spec, 1, 2, 3, 4, 8)


class SpanBlock(nn.Module):
    """A block: its output, and its first activated feature."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.c1, self.c2, self.c3 = (conv3(width, width) for _ in range(3))
        self.activation, signed = self.activated()
        self.shortcut, self.branch = Shortcut(), Place()
        self.hidden1, self.hidden2 = Place(signed=signed), Place(signed=signed)
        self.joined = nn.Identity()

    def activated(self) -> tuple[nn.Module, bool]:
        """Return the activation, and whether it gives negative values."""
        return nn.SiLU(), True

    def gate(self, branch: torch.Tensor) -> torch.Tensor:
        return branch.sigmoid() - 0.5

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        branch_input, skip = self.shortcut(x)
        first: torch.Tensor = self.activation(self.c1(branch_input))
        second = self.activation(self.c2(self.hidden1(first)))
        branch = self.branch(self.c3(self.hidden2(second)))
        return self.joined((branch + skip) * self.gate(branch)), first


class SpanTrunk(nn.Module):
    """The blocks and the fusion of four features; `end` precedes it on the way of the last block's output."""

    def __init__(self, width: int, blocks: Iterable[SpanBlock], end: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.end = end
        self.fuse = nn.Conv2d(4 * width, width, 1)

    def forward(self, shallow: torch.Tensor) -> torch.Tensor:
        outputs, first = [shallow], shallow
        for block in self.blocks:
            out, first = block(outputs[-1])
            outputs.append(out)
        fused: torch.Tensor = self.fuse(torch.cat((shallow, self.end(outputs[-1]), outputs[1], first), 1))
        return fused


class SpanNetwork(UnshufflingNetwork):
    """A first layer, the trunk, and the image of the fused feature alone."""

    repeated = "trunk"

    def __init__(self, spec: Any, blocks: Iterable[SpanBlock], end: Callable[[], nn.Module]) -> None:
        """`end` and `blocks` are made behind the first layer: layers draw their random weights in this order."""
        super().__init__()
        self.spec = spec
        self.head = conv3(spec.channels * self.side**2, spec.width)
        self.trunk = SpanTrunk(spec.width, blocks, end())
        self.tail = conv3(spec.width, spec.channels * (spec.scale * self.side) ** 2)

    def finish(self, feature: torch.Tensor, shallow: torch.Tensor, lr: torch.Tensor) -> torch.Tensor:
        return self.cropped(F.pixel_shuffle(self.tail(feature), self.spec.scale * self.side), lr)

    def tail_output(self, image: torch.Tensor, lr: torch.Tensor) -> torch.Tensor:
        return F.pixel_unshuffle(image, self.spec.scale * self.side)

    def at_scale(self, scale: int) -> Network | None:
        return with_averaged_tail(self, scale)

    @property
    def taps(self) -> dict[str, Tap]:
        depth = len(self.trunk.blocks)
        blocks = {f"body[{k}]": Tap(f"trunk.blocks.{k}.joined") for k in range(depth)}
        return {"head": Tap("head"), **blocks, "body_end": Tap("trunk.fuse"), "pre_up": Tap("trunk.fuse")}


class SPAN(SpanNetwork):
    spec: SPANSpec

    def __init__(self, spec: SPANSpec) -> None:
        blocks = (SpanBlock(spec.width) for _ in range(spec.depth))
        super().__init__(spec, blocks, lambda: conv3(spec.width, spec.width))
        mean = spec.mean if spec.channels == 3 else (0.0,)
        self.sub_mean = MeanShift(mean, spec.img_range, leave=False, from_file=False)
        with torch.no_grad():
            self.head.weight.div_(spec.img_range)  # nothing else does: random weights start in the range of images

    def stem(self, lr: torch.Tensor) -> torch.Tensor:
        return super().stem(self.sub_mean(lr) if self.spec.has_norm else lr)

    @property
    def descriptor(self) -> Descriptor:
        return self.bounded(3 * self.spec.depth + 3)


def trunk_axes(spec: Any, *, side: int = 1, has_end: bool, gates: Iterable[str] = ()) -> AxisPlan:
    """Return the axis plan. A gate multiplies the units of x and h, so all on the skip share one axis.

    `gates` are layers from and to these units. `first` is the axis of the feature that the fusion reads of the last
    block; each block's second feature is its own.
    """
    block = "trunk.blocks.*"
    weights = {
        "head": ("width", "image"),
        f"{block}.c1": ("first", "width"),
        f"{block}.c2": ("second", "first"),
        f"{block}.c3": ("width", "second"),
        **{f"{block}.{gate}": ("width", "width") for gate in gates},
        "trunk.end": ("end", "width"),
        "trunk.fuse": ("fused", f"width | {'end' if has_end else 'width'} | width | first"),
        "tail": ("shuffled", "fused"),
    }
    sizes = {name: Axis(spec.width) for name in ("width", "first", "end", "fused")}
    image, shuffled = spec.channels * side**2, spec.channels * (spec.scale * side) ** 2
    sizes |= {"second": Axis(spec.width, local=True), "image": Axis(image), "shuffled": Axis(shuffled)}
    return AxisPlan(sizes, layer_axes(weights), (Repeat("trunk.blocks", spec.depth),))


def axes(spec: SPANSpec) -> AxisPlan:
    return trunk_axes(spec, has_end=True)


def trunk_linear(depth: int, *, has_end: bool, gates: Iterable[str] = ()) -> LinearPlan:
    """Return the linear plan. Units of the skip are selected, as gates multiply them one by one; so are hidden ones."""
    kinds: dict[str, SpaceKind] = {"lr": "fixed", "width": "units", "fused": "linear", "sr": "fixed"}
    layers, first = [LinearLayer("head", ("lr",), "width")], ""
    for block in (f"trunk.blocks.{index}" for index in range(depth)):
        first, second = f"{block}.first", f"{block}.second"
        kinds |= {first: "units", second: "units"}
        layers += [
            LinearLayer(f"{block}.c1", ("width",), first),
            LinearLayer(f"{block}.c2", (first,), second),
            LinearLayer(f"{block}.c3", (second,), "width"),
            *(LinearLayer(f"{block}.{gate}", ("width",), "width") for gate in gates),
        ]
    if has_end:
        kinds["end"] = "linear"
        layers.append(LinearLayer("trunk.end", ("width",), "end"))
    fused = ("width", "end" if has_end else "width", "width", first)
    layers += [LinearLayer("trunk.fuse", fused, "fused"), LinearLayer("tail", ("fused",), "sr")]
    return LinearPlan(tuple(layers), kinds, ("trunk",))


def linear(spec: SPANSpec) -> LinearPlan:
    """Return the linear plan. SiLU is a rounded ReLU, and (h + x)·(sigmoid(h) - 1/2) is (h + x)/2 for a large h."""
    plan = trunk_linear(spec.depth, has_end=True)
    layers = (
        replace(layer, opens=OwnGate(Tap(layer.name.replace("c3", "joined")), 0.5, BEND))
        if layer.name.endswith(".c3")
        else layer
        for layer in plan.layers
    )
    hidden = [layer.output for layer in plan.layers if layer.name.endswith((".c1", ".c2"))]
    slopes, bends = dict.fromkeys(hidden, 0.0), dict.fromkeys(hidden, BEND)
    return replace(plan, layers=tuple(layers), slopes=slopes, bends=bends)


BRANCHES = ("conv.0", "conv.1", "conv.2")


def collapsed(state: State) -> NotedState:
    """Return the state with each Conv3XC as its 3×3 convolution. A stored one is a cache and may be of other weights:
    it is used only where the branches are missing.
    """
    layers = [match.group(1) for name in state if (match := re.fullmatch(r"(.+)\.sk\.weight", name))]
    plain, stale = dict(state), 0.0
    for layer in layers:
        chain = in_series(*(Kernel.of(state, f"{layer}.{branch}") for branch in BRANCHES))
        kernel = in_parallel(chain, Kernel.of(state, f"{layer}.sk"))
        for branch in (*BRANCHES, "sk"):
            del plain[f"{layer}.{branch}.weight"], plain[f"{layer}.{branch}.bias"]
        for name, value in zip((f"{layer}.eval_conv.weight", f"{layer}.eval_conv.bias"), kernel, strict=True):
            cached = state.get(name)
            if cached is not None and cached.shape == value.shape:
                stale = max(stale, float((cached.double() - value).abs().max() / value.abs().max().clamp_min(1e-30)))
            plain[name] = value.float()
    note = f"its eval_conv tensors differ from its branches by up to {stale:.2g} of the largest value: not used"
    return plain, (note,) if stale > STALE else ()


def with_branches(state: State) -> State:
    """Return the state with branches that collapse to the same convolutions: units pass the 1×1 layers unchanged."""
    written = dict(state)
    for name, kernel in state.items():
        if not name.endswith(".eval_conv.weight"):
            continue
        layer, bias = name.removesuffix(".eval_conv.weight"), state[name.removesuffix("weight") + "bias"]
        outputs, inputs = kernel.shape[:2]
        middle = kernel.new_zeros(2 * outputs, 2 * inputs, 3, 3)
        middle[:outputs, :inputs] = kernel
        branches = {
            "sk": (kernel.new_zeros(outputs, inputs, 1, 1), torch.zeros_like(bias)),
            "conv.0": (torch.eye(2 * inputs, inputs)[:, :, None, None], bias.new_zeros(2 * inputs)),
            "conv.1": (middle, torch.cat((bias, torch.zeros_like(bias)))),
            "conv.2": (torch.eye(outputs, 2 * outputs)[:, :, None, None], torch.zeros_like(bias)),
        }
        for branch, tensors in branches.items():
            written |= {f"{layer}.{branch}.{kind}": t for kind, t in zip(("weight", "bias"), tensors, strict=True)}
    return written


TRUNK = {"trunk.blocks.{k}.c{i+1}": "block_{k+1}.c{i+1}_r.eval_conv", "trunk.fuse": "conv_cat"}
"""The names of a trunk's layers in files."""


def count_blocks(state: State) -> int:
    return count(state, r"block_(\d+)\.c1_r\.eval_conv\.weight", first=1)


def _read(state: State, scale: int | None) -> Reading:
    channels = columns(state, "conv_1.eval_conv.weight")
    fields = {
        "width": rows(state, "conv_1.eval_conv.weight"),
        "depth": count_blocks(state),
        "channels": channels,
        "scale": shuffle_scale(state, "upsampler.0.weight", channels),
    }
    if "no_norm" in state:
        return Reading({**fields, "img_range": 1.0, "mean": NO_MEAN})
    why = "not in the file; SPAN's default, which a file without it marks by a tensor no_norm"
    assumed = [Assumption("img_range", 255.0, why), Assumption("mean", DIV2K_MEAN, why)]
    return Reading(fields, tuple(assumed[: 2 if channels == 3 else 1]))


def _names(spec: SPANSpec, in_file: set[str]) -> dict[str, str]:
    ends = {"head": "conv_1.eval_conv", "trunk.end": "conv_2.eval_conv", "tail": "upsampler.0"}
    return weight_and_bias(named(ends | TRUNK, k=spec.depth, i=3))


def _dialect(name: str, mark: str, **options: Any) -> Dialect:
    return Dialect(
        name,
        has_tensors(f"conv_1.{mark}.weight", f"block_1.c1_r.{mark}.weight", "conv_cat.weight", "upsampler.0.weight"),
        _read,
        _names,
        surplus=lambda name: name == "no_norm",
        code_bases=(name,),
        companions=lambda spec: ({} if spec.has_norm else {"no_norm": torch.zeros(1)}, ()),
        **options,
    )


ARCHITECTURE = Architecture(
    SPANSpec,
    SPAN,
    axes,
    linear=linear,
    relatives={
        "SPANF": has_names(r"^conv_near\."),
        "SPANV2": has_names(r"^guidance_map_conv\."),
        "SPAN+": has_names(r"^feats\.0\.(sk|eval_conv)\."),
        "TemporalSPAN": has_names(r"^(.+\.)?m_head\.(sk|eval_conv)\."),
    },
    quantised=tuple(f"trunk.blocks.*.{conv}" for conv in ("c1", "c2", "c3")),
    small=SPANSpec(width=20, depth=3),
    # Widths of published files.
    sizes={"xs": {"width": 28}, "s": {"width": 48}, "m": {"width": 52}},
    variants=(
        SPANSpec(8, width=4, depth=2),
        SPANSpec(1, width=4, depth=1, mean=NO_MEAN, img_range=1.0),
        SPANSpec(2, width=4, depth=2, channels=1),
    ),
    dialects=(
        _dialect("span", "sk", wrapping="params", fold=collapsed, unfold=with_branches, community_name="span"),
        # The form that is run, as in the files of NTIRE's baseline.
        _dialect("span-collapsed", "eval_conv"),
    ),
)
