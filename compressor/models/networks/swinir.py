"""SwinIR (Liang et al., 2021): residual groups of shifted-window transformer layers.

Code followed: JingyunLiang/SwinIR, models/network_swinir.py. Its stochastic depth in training is left out: it draws
from global state and has no effect on a trained network.

In this file: spec and network, the axis plan, the same network for images of one size, and the names in files.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, ClassVar, cast

import torch
from torch import nn
from torch.nn import functional as F

from compressor.base.errors import SrkdError, UsageError
from compressor.images.resize import reflected_indices
from compressor.models.networks.axes import Axis, AxisPlan, Repeat, inherited_index, layer_axes
from compressor.models.networks.base import (
    Architecture,
    Descriptor,
    Network,
    PublishedSettings,
    Spec,
    Tap,
    require_fraction,
    require_positive,
    scale_count,
)
from compressor.models.networks.dialect import (
    Assumption,
    Companions,
    Dialect,
    Reading,
    State,
    columns,
    count,
    has_tensors,
    rows,
    shuffle_scale,
    weight_and_bias,
)
from compressor.models.networks.layers import DIV2K_MEAN, MeanShift, Upsampler, scale_from_upsampler, upsampler_factors
from compressor.models.networks.linear_plan import LinearLayer, LinearPlan, SpaceKind
from compressor.models.networks.windows import SwinLayer, WindowAttention, relative_index, shift_mask

UPSAMPLERS = ("pixelshuffle", "pixelshuffledirect", "nearest+conv", "none")
CONNECTIONS = ("1conv", "3conv")
PADDINGS = ("network", "testscript")
IMAGE_SIZES = (64, 126)
"""Training sizes of the published files; 126 is for windows of 7 (JPEG artefacts)."""


@dataclass(frozen=True)
class SwinIRSpec(Spec):
    """The spec of SwinIR: `depths` and `heads` per residual group, `features` before the upsampler.

    `shifted` is False for files trained on images no larger than a window; `padding="testscript"` pads like the
    official test script, always to the next multiple of the window, with the edge repeated.
    """

    arch: ClassVar[str] = "swinir"
    width: int = 60
    depths: tuple[int, ...] = (6, 6, 6, 6)
    heads: tuple[int, ...] = (6, 6, 6, 6)
    window: int = 8
    mlp_ratio: float = 2.0
    upsampler: str = "pixelshuffle"
    connection: str = "1conv"
    features: int = 64
    channels: int = 3
    img_range: float = 1.0
    shifted: bool = True
    padding: str = "network"

    def __post_init__(self) -> None:
        require_positive(self, "width", "window", "features")
        for name, values in (("upsampler", UPSAMPLERS), ("connection", CONNECTIONS), ("padding", PADDINGS)):
            if getattr(self, name) not in values:
                raise UsageError(f"swinir: {name}={getattr(self, name)!r} is not one of {', '.join(values)}")
        if len(self.depths) != len(self.heads) or not self.depths or min(self.depths) < 1 or len(self.depths) > 256:
            raise UsageError(f"swinir: depths={self.depths} and heads={self.heads} must be positive and equally many")
        if min(self.heads) < 1 or any(self.width % heads for heads in self.heads):
            raise UsageError(f"swinir: width={self.width} is not a multiple of every one of heads={self.heads}")
        if self.channels not in (1, 3):
            raise UsageError(f"swinir: channels={self.channels} is neither 1 nor 3")
        if not (self.img_range > 0 and 0 < self.mlp_ratio <= 64 and self.hidden >= 1 and max(self.depths) <= 256):
            raise UsageError(f"swinir: img_range={self.img_range:g}, mlp_ratio={self.mlp_ratio:g} are out of range")
        if self.upsampler == "pixelshuffle":
            upsampler_factors(self.scale)
        elif self.scale not in {"none": (1,), "nearest+conv": (4,)}.get(self.upsampler, (1, 2, 3, 4, 8)):
            raise UsageError(f"swinir: upsampler={self.upsampler!r} does not give scale={self.scale}")

    @property
    def hidden(self) -> int:
        return int(self.width * self.mlp_ratio)

    @property
    def undetectable(self) -> Mapping[str, tuple[Any, ...]]:
        return {"img_range": (1.0, 255.0), "padding": ()}

    @property
    def has_features(self) -> bool:
        return self.upsampler in ("pixelshuffle", "nearest+conv")

    @property
    def unused(self) -> frozenset[str]:
        return frozenset() if self.has_features else frozenset({"features"})

    def narrowed(self, width: float) -> SwinIRSpec:
        """Return the spec with fewer heads, at least one; each keeps its channels."""
        require_fraction("width", width)
        if len(set(self.heads)) != 1:
            raise UsageError(f"swinir: heads={self.heads} differ between groups: only depth can be reduced")
        heads = scale_count("width", width, self.heads[0])
        channels = self.width // self.heads[0] * heads
        return replace(self, width=channels, heads=(heads,) * len(self.heads))

    def shortened(self, depth: float) -> SwinIRSpec:
        """Return the spec with fewer residual groups."""
        total = len(self.depths)
        count = scale_count("depth", depth, total)
        groups = [inherited_index(index, count, total) for index in range(count)]
        return replace(self, depths=tuple(self.depths[k] for k in groups), heads=tuple(self.heads[k] for k in groups))


def connection(spec: SwinIRSpec) -> nn.Module:
    """Return the convolution at the end of a group or of the body: one, or three through a quarter of the channels."""
    if spec.connection == "1conv":
        return nn.Conv2d(spec.width, spec.width, 3, padding=1)
    quarter = spec.width // 4
    return nn.Sequential(
        nn.Conv2d(spec.width, quarter, 3, padding=1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(quarter, quarter, 1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(quarter, spec.width, 3, padding=1),
    )


class SwinGroup(nn.Module):
    """A residual group: x + conv(layers(x)); every second layer is shifted."""

    def __init__(self, spec: SwinIRSpec, depth: int, heads: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            SwinLayer(spec.width, heads, spec.window, spec.hidden, shifted=spec.shifted and k % 2 == 1)
            for k in range(depth)
        )
        self.conv = connection(spec)
        self.window = spec.window

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = x.permute(0, 2, 3, 1)
        mask = shift_mask(x.shape[2], x.shape[3], self.window, x.device)
        for layer in self.layers:
            tokens = layer(tokens, mask)
        deep: torch.Tensor = self.conv(tokens.permute(0, 3, 1, 2))
        return x + deep


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of (N,C,H,W)."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class NearestUpsampler(nn.Module):
    """An upsampler for ×4: twice nearest ×2, convolution, LeakyReLU 0.2; then one more convolution."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.up1, self.up2, self.hr = (nn.Conv2d(features, features, 3, padding=1) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for conv in (self.up1, self.up2):
            x = F.leaky_relu(conv(F.interpolate(x, scale_factor=2.0, mode="nearest")), 0.2)
        return F.leaky_relu(self.hr(x), 0.2)


class SwinIR(Network):
    spec: SwinIRSpec

    def __init__(self, spec: SwinIRSpec) -> None:
        super().__init__()
        self.spec = spec
        mean = DIV2K_MEAN if spec.channels == 3 else (0.0,)
        self.sub_mean = MeanShift(mean, spec.img_range, leave=False, from_file=False)
        self.add_mean = MeanShift(mean, spec.img_range, leave=True, from_file=False)
        self.head = nn.Conv2d(spec.channels, spec.width, 3, padding=1)
        self.embed_norm = ChannelNorm(spec.width)
        self.groups = nn.Sequential(*(SwinGroup(spec, d, h) for d, h in zip(spec.depths, spec.heads, strict=True)))
        self.norm = ChannelNorm(spec.width)
        self.body_end = connection(spec)
        self.joined = nn.Identity()
        inputs, outputs = spec.width, spec.channels
        if spec.has_features:
            inputs = spec.features
            self.before_upsampler = nn.Conv2d(spec.width, spec.features, 3, padding=1)
            nearest = spec.upsampler == "nearest+conv"
            self.upsampler = NearestUpsampler(spec.features) if nearest else Upsampler(spec.scale, spec.features)
        elif spec.upsampler == "pixelshuffledirect":
            outputs = spec.channels * spec.scale**2
        self.tail = nn.Conv2d(inputs, outputs, 3, padding=1)

    def stem(self, lr: torch.Tensor) -> torch.Tensor:
        shallow: torch.Tensor = self.head(self.sub_mean(self._padded(lr)))
        return shallow

    def body(self, feature: torch.Tensor) -> torch.Tensor:
        deep: torch.Tensor = self.groups(self.embed_norm(feature))
        return deep

    def finish(self, feature: torch.Tensor, shallow: torch.Tensor, lr: torch.Tensor) -> torch.Tensor:
        joined = self.joined(self.body_end(self.norm(feature)) + shallow)
        h, w = lr.shape[-2] * self.spec.scale, lr.shape[-1] * self.spec.scale
        return self._cropped(self._upscaled(joined, lr), h, w)

    def tail_output(self, image: torch.Tensor, lr: torch.Tensor) -> torch.Tensor:
        residual: torch.Tensor = self.add_mean.undo(image)
        if self.spec.upsampler == "none":
            residual = residual - self.sub_mean(lr)
        return residual if self.spec.has_features else F.pixel_unshuffle(residual, self.spec.scale)

    def _cropped(self, sr: torch.Tensor, height: int, width: int) -> torch.Tensor:
        # Not a slice: a trace would decide once for all sizes whether the slice covers everything.
        rows, columns = (torch.arange(length, device=sr.device) for length in (height, width))
        return sr.index_select(-2, rows).index_select(-1, columns)

    def _upscaled(self, joined: torch.Tensor, lr: torch.Tensor) -> torch.Tensor:
        kind = self.spec.upsampler
        if kind == "pixelshuffledirect":
            residual = F.pixel_shuffle(self.tail(joined), self.spec.scale)
        elif kind == "none":
            residual = self.sub_mean(self._padded(lr)) + self.tail(joined)
        else:
            # The slope here is torch's default, not the 0.2 of the other activations.
            residual = self.tail(self.upsampler(F.leaky_relu(self.before_upsampler(joined), 0.01)))
        sr: torch.Tensor = self.add_mean(residual)
        return sr

    def _padded(self, lr: torch.Tensor) -> torch.Tensor:
        h, w = lr.shape[-2], lr.shape[-1]
        lr = lr.index_select(-2, self.padded_positions(h, lr.device))
        return lr.index_select(-1, self.padded_positions(w, lr.device))

    def padded_positions(self, size: int, device: torch.device) -> torch.Tensor:
        """Return the source position, on an axis of `size`, of each position of the padded axis."""
        window, script = self.spec.window, self.spec.padding == "testscript"
        target = (size + (window if script else window - 1)) // window * window
        return reflected_indices(torch.arange(target, device=device), size, repeat_edge=script)

    def for_size(self, height: int, width: int) -> Network:
        if self.quantisation is not None:
            raise SrkdError("a quantised swinir has no form for images of one size: export it for any size, as --onnx")
        return FixedSwinIR(self, height, width).to(self.head.weight.device).train(self.training)

    @property
    def descriptor(self) -> Descriptor:
        """The descriptor: any size is allowed. Windows start at the top left; tiles keep to their grid."""
        return Descriptor(
            scale=self.spec.scale,
            channels=self.spec.channels,
            receptive_radius=None,
            window=self.spec.window,
            mirror_repeats_edge=self.spec.padding == "testscript",
        )

    @property
    def taps(self) -> dict[str, Tap]:
        groups = {f"body[{k}]": Tap(f"groups.{k}") for k in range(len(self.spec.depths))}
        return {"head": Tap("head"), **groups, "body_end": Tap("body_end"), "pre_up": Tap("joined")}


def axes(spec: SwinIRSpec) -> AxisPlan:
    layer = "groups.*.layers.*"
    weights: dict[str, tuple[str, ...]] = {
        "head": ("width", "colour"),
        "embed_norm": ("width",),
        "norm": ("width",),
        f"{layer}.norm1": ("width",),
        f"{layer}.norm2": ("width",),
        f"{layer}.attention.qkv": ("width | width | width", "width"),
        f"{layer}.attention.proj": ("width", "width"),
        f"{layer}.fc1": ("hidden", "width"),
        f"{layer}.fc2": ("width", "hidden"),
        "before_upsampler": ("features", "width"),
        "upsampler.convs.*": ("expanded", "features"),
        **{f"upsampler.{name}": ("features", "features") for name in ("up1", "up2", "hr")},
        "tail": ("rgb", "features" if spec.has_features else "width"),
    }
    for conv in ("groups.*.conv", "body_end"):
        if spec.connection == "1conv":
            weights[conv] = ("width", "width")
        else:
            weights |= {
                f"{conv}.0": ("quarter", "width"),
                f"{conv}.2": ("quarter", "quarter"),
                f"{conv}.4": ("width", "quarter"),
            }
    parameters = layer_axes(weights)
    for group, (depth, heads) in enumerate(zip(spec.depths, spec.heads, strict=True)):
        for index in range(depth):
            # If groups differ in heads, only depth can be cut, and each number of heads is a separate axis.
            table = f"groups.{group}.layers.{index}.attention.bias_table"
            parameters[table] = ("positions", f"heads_{heads}" if len(set(spec.heads)) > 1 else "heads")
    return AxisPlan(_axis_sizes(spec), parameters, (Repeat("groups", len(spec.depths)),))


def linear(spec: SwinIRSpec) -> LinearPlan:
    """Return the linear plan. Norms act on the stream, so its units can only be selected; heads are kept whole.

    Norms and attention change the stream of another network: it passes by the body, on the long skip.
    """
    layers = [LinearLayer("head", ("lr",), "stream"), LinearLayer("embed_norm", ("stream",), "stream")]
    kinds: dict[str, SpaceKind] = {"lr": "fixed", "sr": "fixed", "stream": "units"}
    values: dict[str, str] = {}
    blocks: dict[str, int] = {}
    for group, (depth, heads) in enumerate(zip(spec.depths, spec.heads, strict=True)):
        for layer in (f"groups.{group}.layers.{index}" for index in range(depth)):
            attended, hidden = f"{layer}.attention.heads", f"{layer}.hidden"
            kinds |= {attended: "units", hidden: "units"}
            values[f"{layer}.attention.bias_table"] = attended
            blocks[attended] = spec.width // heads
            layers += [
                LinearLayer(f"{layer}.norm1", ("stream",), "stream"),
                LinearLayer(f"{layer}.attention.qkv", ("stream",), attended, parts=3),
                # The output is in windows, while the sum is not: the MLP also corrects the error of this layer.
                LinearLayer(f"{layer}.attention.proj", (attended,), "stream"),
                LinearLayer(f"{layer}.norm2", ("stream",), "stream"),
                LinearLayer(f"{layer}.fc1", ("stream",), hidden),
                LinearLayer(f"{layer}.fc2", (hidden,), "stream", at=Tap(layer)),
            ]
        layers += _connection_layers(spec, f"groups.{group}.conv", Tap(f"groups.{group}"), kinds)
    layers.append(LinearLayer("norm", ("stream",), "stream"))
    layers += _connection_layers(spec, "body_end", Tap("joined"), kinds)
    slopes: dict[str, float | str] = {}
    ends = ["stream"]
    if spec.has_features:
        ups = range(len(upsampler_factors(spec.scale))) if spec.upsampler == "pixelshuffle" else ()
        names = [f"upsampler.convs.{k}" for k in ups] or [f"upsampler.{name}" for name in ("up1", "up2", "hr")]
        ends += ["before_upsampler", *names]
        layers += [LinearLayer(name, (space,), name) for space, name in pairwise(ends)]
        kinds |= dict.fromkeys(ends[1:], "fixed")
        slopes |= {ends[1]: 0.01} | dict.fromkeys(() if ups else names, 0.2)
    layers.append(LinearLayer("tail", (ends[-1],), "sr"))
    stages = ("embed_norm", *(f"groups.{group}" for group in range(len(spec.depths))))
    return LinearPlan(
        tuple(layers),
        kinds,
        stages,
        values=values,
        blocks=blocks,
        slopes=slopes,
        image_layers=max(1, len(ends) - 1),
        bypassed=("embed_norm", "groups", "norm", "body_end"),
    )


def _connection_layers(spec: SwinIRSpec, name: str, at: Tap, kinds: dict[str, SpaceKind]) -> list[LinearLayer]:
    """Return the convolution at the end of a group or the body, or its three, whose spaces join `kinds`."""
    if spec.connection == "1conv":
        return [LinearLayer(name, ("stream",), "stream", at=at)]
    spaces = ["stream", f"{name}.0.quarter", f"{name}.2.quarter", "stream"]
    kinds |= dict.fromkeys(spaces[1:3], "units")
    layers = [LinearLayer(f"{name}.{k}", (a,), b) for k, (a, b) in zip((0, 2, 4), pairwise(spaces), strict=True)]
    return [*layers[:2], replace(layers[2], at=at)]


def _axis_sizes(spec: SwinIRSpec) -> dict[str, Axis]:
    direct = spec.upsampler == "pixelshuffledirect"
    factor = upsampler_factors(spec.scale)[0] if spec.upsampler == "pixelshuffle" and spec.scale > 1 else 1
    return {
        "width": Axis(spec.width, unit=spec.width // spec.heads[0]),
        "hidden": Axis(spec.hidden, local=True),
        "quarter": Axis(spec.width // 4, local=True),
        "heads": Axis(spec.heads[0], follows="width"),
        **{f"heads_{heads}": Axis(heads) for heads in spec.heads},
        "positions": Axis((2 * spec.window - 1) ** 2),
        "features": Axis(spec.features),
        "expanded": Axis(spec.features * factor**2),
        "colour": Axis(spec.channels),
        "rgb": Axis(spec.channels * spec.scale**2 if direct else spec.channels),
    }


class FixedSwinIR(SwinIR):
    """A SwinIR for a batch of one image of `height` × `width`, with operations for converters without dynamic shapes.

    It computes the same function with the same weights. Features stay N,C,H,W: linear layers are 1×1 convolutions,
    windows are cut by pixel unshuffle, which puts a window's positions side by side as channels, and joined by pixel
    shuffle. No tensor has more than four axes besides the batch, which is ncnn's limit.
    """

    def __init__(self, network: SwinIR, height: int, width: int) -> None:
        super().__init__(network.spec)
        self.load_state_dict(network.state_dict())
        rows, columns = (network.padded_positions(size, torch.device("cpu")) for size in (height, width))
        self.rows, self.columns = _runs(rows), _runs(columns)
        self.sr_size = (height * network.spec.scale, width * network.spec.scale)
        groups = cast(Iterable[SwinGroup], network.groups)
        self.groups = nn.Sequential(*(FixedGroup(group, len(rows), len(columns)) for group in groups))

    def _padded(self, lr: torch.Tensor) -> torch.Tensor:
        if len(self.rows) > 1:
            lr = torch.cat([lr[:, :, start:stop] for start, stop in self.rows], 2)
        if len(self.columns) > 1:
            lr = torch.cat([lr[:, :, :, start:stop] for start, stop in self.columns], 3)
        return lr

    def _cropped(self, sr: torch.Tensor, height: int, width: int) -> torch.Tensor:
        # Not the caller's sizes, which a trace computes from the image: converters fail on that.
        if sr.shape[-2:] == self.sr_size:
            return sr
        return sr[:, :, : self.sr_size[0], : self.sr_size[1]]


def _runs(positions: torch.Tensor) -> list[tuple[int, int]]:
    """Return the positions as runs [start, stop) of consecutive numbers."""
    values = positions.tolist()
    cuts = [0, *(k for k in range(1, len(values)) if values[k] != values[k - 1] + 1), len(values)]
    return [(values[begin], values[begin] + end - begin) for begin, end in pairwise(cuts)]


class FixedGroup(nn.Module):
    """A residual group: x + conv(layers(x)) on (N,C,H,W)."""

    def __init__(self, group: SwinGroup, height: int, width: int) -> None:
        super().__init__()
        mask = shift_mask(height, width, group.window, torch.device("cpu"))
        layers = cast(Iterable[SwinLayer], group.layers)
        self.layers = nn.Sequential(*(FixedLayer(layer, mask, height, width) for layer in layers))
        self.conv = group.conv

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        deep: torch.Tensor = self.conv(self.layers(x))
        return x + deep


class FixedLayer(nn.Module):
    """A transformer layer: x += attention(norm1(x)), in shifted windows or not; x += mlp(norm2(x))."""

    def __init__(self, layer: SwinLayer, mask: torch.Tensor, height: int, width: int) -> None:
        super().__init__()
        self.shift = layer.shift
        self.norm1, self.norm2 = _channel_norm(layer.norm1), _channel_norm(layer.norm2)
        self.attention = FixedAttention(layer.attention, mask if layer.shift else None, height, width)
        self.fc1, self.fc2 = (_pointwise(linear.weight, linear.bias) for linear in (layer.fc1, layer.fc2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branch = self.norm1(x)
        if self.shift:
            branch = torch.roll(branch, (-self.shift, -self.shift), (2, 3))
        branch = self.attention(branch)
        if self.shift:
            branch = torch.roll(branch, (self.shift, self.shift), (2, 3))
        x = x + branch
        mixed: torch.Tensor = self.fc2(F.gelu(self.fc1(self.norm2(x))))
        return x + mixed


class FixedAttention(nn.Module):
    """Window attention: softmax(q·kᵀ/√d + relative bias + mask)·v within each window."""

    bias: torch.Tensor
    mask: torch.Tensor | None

    def __init__(self, attention: WindowAttention, mask: torch.Tensor | None, height: int, width: int) -> None:
        super().__init__()
        self.heads, self.window = attention.heads, attention.window
        self.rows, self.columns = height // self.window, width // self.window
        (q, k, v), (q_bias, k_bias, v_bias) = attention.qkv.weight.chunk(3), attention.qkv.bias.chunk(3)
        self.each = q.shape[0] // self.heads
        scale = self.each**-0.5
        self.q = _pointwise(q * scale, q_bias * scale)
        self.k, self.v = _pointwise(k, k_bias), _pointwise(v, v_bias)
        self.proj = _pointwise(attention.proj.weight, attention.proj.bias)
        bias = attention.bias_table.detach()[attention.index].permute(2, 0, 1)
        self.register_buffer("bias", bias[None, None].contiguous())
        self.register_buffer("mask", None if mask is None else mask[None, :, None].contiguous())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q = self._windows(self.q(x)).permute(0, 4, 1, 3, 2)
        k = self._windows(self.k(x)).permute(0, 4, 1, 2, 3)
        v = self._windows(self.v(x)).permute(0, 4, 1, 3, 2)
        scores = torch.matmul(q, k) + self.bias
        if self.mask is not None:
            scores = scores + self.mask
        mixed = torch.matmul(scores.softmax(-1), v).permute(0, 2, 4, 3, 1)
        joined = mixed.reshape(1, self.heads * self.each * self.window**2, self.rows, self.columns)
        projected: torch.Tensor = self.proj(F.pixel_shuffle(joined, self.window))
        return projected

    def _windows(self, x: torch.Tensor) -> torch.Tensor:
        """Return (1,C,H,W) as (1, heads, channels per head, positions, windows)."""
        cut = F.pixel_unshuffle(x, self.window)
        return cut.reshape(1, self.heads, self.each, self.window**2, self.rows * self.columns)


def _pointwise(weight: torch.Tensor, bias: torch.Tensor) -> nn.Conv2d:
    """Return a linear layer as a 1×1 convolution."""
    conv = nn.Conv2d(weight.shape[1], weight.shape[0], 1)
    with torch.no_grad():
        conv.weight.copy_(weight[:, :, None, None])
        assert conv.bias is not None
        conv.bias.copy_(bias)
    return conv


def _channel_norm(norm: nn.LayerNorm) -> ChannelNorm:
    channel_norm = ChannelNorm(list(norm.normalized_shape), eps=norm.eps)
    channel_norm.load_state_dict(norm.state_dict())
    return channel_norm


def _table(state: State, group: int) -> tuple[int, int]:
    """Return window and heads of a group from its first bias table of (2·window - 1)² rows."""
    name = f"layers.{group}.residual_group.blocks.0.attn.relative_position_bias_table"
    table = state.get(name)
    if table is None or table.dim() != 2:
        raise SrkdError(f"tensor {name} is missing or not a table")
    side = math.isqrt(table.shape[0])
    if side**2 != table.shape[0] or side % 2 == 0:
        raise SrkdError(f"tensor {name} has {table.shape[0]} rows, which are not (2·window - 1)²")
    return (side + 1) // 2, table.shape[1]


def _upsampler(state: State, width: int, channels: int) -> dict[str, Any]:
    """Return the upsampler, from the names of its layers, and its scale."""
    if "conv_up1.weight" in state:
        return {"upsampler": "nearest+conv", "scale": 4, "features": rows(state, "conv_before_upsample.0.weight")}
    if "conv_before_upsample.0.weight" in state:
        features = rows(state, "conv_before_upsample.0.weight")
        convs = [f"upsample.{k}.weight" for k in (0, 2, 4) if f"upsample.{k}.weight" in state]
        scale = scale_from_upsampler([rows(state, name) for name in convs], features)
        return {"upsampler": "pixelshuffle", "scale": scale, "features": features}
    if "upsample.0.weight" in state:
        return {"upsampler": "pixelshuffledirect", "scale": shuffle_scale(state, "upsample.0.weight", channels)}
    return {"upsampler": "none", "scale": 1}


def _read(state: State, scale: int | None) -> Reading:
    width, channels = rows(state, "conv_first.weight"), columns(state, "conv_first.weight")
    groups = count(state, r"layers\.(\d+)\.residual_group\.blocks\.0\.norm1\.weight")
    depths = [count(state, rf"layers\.{g}\.residual_group\.blocks\.(\d+)\.norm1\.weight") for g in range(groups)]
    tables = [_table(state, g) for g in range(groups)]
    hidden = state.get("layers.0.residual_group.blocks.0.mlp.fc1.weight")
    if hidden is None or hidden.dim() != 2 or not tables:
        raise SrkdError("its first layer (layers.0.residual_group.blocks.0) is not complete")
    has_index = any(name.endswith("relative_position_index") for name in state)
    shifted = not has_index or any(name.endswith("attn_mask") for name in state)
    fields = {
        "width": width,
        "depths": depths,
        "heads": [heads for _, heads in tables],
        "window": tables[0][0],
        "mlp_ratio": hidden.shape[0] / width,
        "connection": "3conv" if "conv_after_body.0.weight" in state else "1conv",
        "channels": channels,
        "shifted": shifted or max(depths) == 1,
        **_upsampler(state, width, channels),
    }
    notes = () if fields["shifted"] else ("trained on images no larger than a window: no layer is shifted",)
    assumed = Assumption("img_range", 1.0, "not in the file; the published SwinIR uses 1 (255 for JPEG artefacts)")
    return Reading(fields, (assumed,), notes)


def _names(spec: SwinIRSpec, in_file: set[str]) -> dict[str, str]:
    layers = [("head", "conv_first"), ("embed_norm", "patch_embed.norm"), ("norm", "norm")]
    layers += _connection(spec, "body_end", "conv_after_body")
    layers += list(_tail(spec))
    names = {}
    for g, depth in enumerate(spec.depths):
        layers += _connection(spec, f"groups.{g}.conv", f"layers.{g}.conv")
        for k in range(depth):
            layer, there = f"groups.{g}.layers.{k}", f"layers.{g}.residual_group.blocks.{k}"
            layers += [(f"{layer}.{norm}", f"{there}.{norm}") for norm in ("norm1", "norm2")]
            layers += [(f"{layer}.attention.{linear}", f"{there}.attn.{linear}") for linear in ("qkv", "proj")]
            layers += [(f"{layer}.{linear}", f"{there}.mlp.{linear}") for linear in ("fc1", "fc2")]
            names[f"{layer}.attention.bias_table"] = f"{there}.attn.relative_position_bias_table"
    return weight_and_bias(*layers) | names


def _connection(spec: SwinIRSpec, layer: str, there: str) -> list[tuple[str, str]]:
    suffixes = [""] if spec.connection == "1conv" else [".0", ".2", ".4"]
    return [(layer + suffix, there + suffix) for suffix in suffixes]


def _tail(spec: SwinIRSpec) -> Iterator[tuple[str, str]]:
    if spec.upsampler == "pixelshuffledirect":
        yield "tail", "upsample.0"
        return
    yield "tail", "conv_last"
    if spec.upsampler == "none":
        return
    yield "before_upsampler", "conv_before_upsample.0"
    if spec.upsampler == "nearest+conv":
        yield from ((f"upsampler.{name}", f"conv_{name}") for name in ("up1", "up2", "hr"))
    else:
        steps = range(len(upsampler_factors(spec.scale)))
        yield from ((f"upsampler.convs.{k}", f"upsample.{2 * k}") for k in steps)


def _window_buffers(spec: SwinIRSpec) -> Companions:
    """Return the buffers of strict loading: relative_position_index of every layer, attn_mask of shifted ones."""
    sizes = [size for size in IMAGE_SIZES if size % spec.window == 0 and size > spec.window]
    image = (sizes[0] if sizes else 8 * spec.window) if spec.shifted else spec.window
    index = relative_index(spec.window)
    mask = shift_mask(image, image, spec.window, torch.device("cpu"))
    buffers: dict[str, torch.Tensor] = {}
    for g, depth in enumerate(spec.depths):
        for k in range(depth):
            layer = f"layers.{g}.residual_group.blocks.{k}"
            buffers[f"{layer}.attn.relative_position_index"] = index
            if spec.shifted and k % 2 == 1:
                buffers[f"{layer}.attn_mask"] = mask
    note = f"its buffers are those of img_size={image}, window_size={spec.window}: build the network with these"
    return Companions(buffers, (note,))


OFFICIAL = Dialect(
    name="swinir",
    recognises=has_tensors("conv_first.weight", "layers.0.residual_group.blocks.0.attn.relative_position_bias_table"),
    read=_read,
    names=_names,
    # Buffers that depend on the training size; srkd computes them for every input.
    surplus=lambda name: name.endswith((".relative_position_index", ".attn_mask")) or name == "attn_mask",
    code_bases=("swinir", "basicsr"),
    community_name="swinir",
    wrapping="params",
    companions=_window_buffers,
)

_FORM = SwinIRSpec(4, width=8, depths=(2, 1), heads=(2, 2), window=4, features=6)

ARCHITECTURE = Architecture(
    SwinIRSpec,
    SwinIR,
    axes,
    linear=linear,
    # The four linear layers of a transformer layer and their inputs; the sums between them stay in float.
    quantised=tuple(f"groups.*.layers.*.{name}" for name in ("attention.qkv", "attention.proj", "fc1", "fc2")),
    small=SwinIRSpec(width=21, depths=(2, 2, 2), heads=(7, 7, 7), window=4, features=8),
    variants=(
        replace(_FORM, scale=8, depths=(2, 2)),
        replace(_FORM, upsampler="pixelshuffledirect"),
        replace(_FORM, upsampler="pixelshuffledirect", scale=1),
        replace(_FORM, upsampler="pixelshuffledirect", scale=8, channels=1),
        replace(_FORM, upsampler="nearest+conv"),
        replace(_FORM, upsampler="none", scale=1, channels=1, img_range=255.0),
        replace(_FORM, connection="3conv", shifted=False),
        replace(_FORM, padding="testscript"),
        replace(_FORM, window=7, heads=(4, 2)),
    ),
    dialects=(OFFICIAL,),
    # The option files of DUKD's code (yun224/DUKD, options/).
    published=tuple(
        PublishedSettings(
            {"dukd.pixel_weight": 5.0, "dukd.probability": 0.3, "dukd.zoom_out": "off", "dukd.cells": 1},
            where={"scale": scale},
        )
        for scale in (2, 3, 4)
    ),
)
