"""Fake quantisation: values on the grid of an integer, in floating point, with gradients that pass the rounding.

    m = 2^(k-1) - 1
    weights       Q(W) = round(W·m/M)·M/m,   M = max|W| + 1e-8            no gradient through M, dQ/dW = 1
    symmetric     Q(v) = round(clip(v, -α, α)·m/α)·α/m                    α is trained
                  dQ/dv = 1[|v| ≤ α],   dQ/dα = (Q(v) - clip(v, -α, α))/α + sign(v)·1[|v| > α]
    unsigned      Q(v) = round(clip(v, 0, α)·n/α)·α/n,   n = 2^k - 1      PACT, for non-negative values
                  dQ/dv = 1[0 ≤ v < α],   dQ/dα = 1[v ≥ α]

The symmetric form is PAMS's (colorjam/PAMS, model/quant_ops.py; the gradient by α follows from it), rounding half to
even. In that code a value equal to ±α gives half of its gradient to v and half to α: `tie=0.5`.

The arithmetic is in the precision of α, fp32, also inside a bf16 autocast: near the end of an 8-bit grid bf16 cannot
distinguish adjacent levels, and the gradient of α sums up rounding errors, which bf16 would replace by its own. The
next convolution still computes in bf16.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, TypeAlias, cast

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from compressor.base.errors import UsageError
from compressor.models.quantisation.description import EDGE_BITS, Quantisation

INITIAL_ALPHA = 10.0
"""Initial α, from PAMS, model/quant_ops.py; calibration replaces it."""
SMALLEST_ALPHA = 1e-3
WEIGHT_EPS = 1e-8
FLOAT_BYTES = 4


def symmetric_levels(bits: int) -> int:
    """Return m, the number of levels on each side of zero."""
    return int(2 ** (bits - 1) - 1)


def unsigned_levels(bits: int) -> int:
    """Return the number of levels above zero for non-negative values."""
    return int(2**bits - 1)


def weight_limits(weight: torch.Tensor, *, per_channel: bool) -> torch.Tensor:
    """Return M for the tensor, or for each output channel (with the weight's number of axes), without gradient."""
    magnitude = weight.detach().abs()
    largest = magnitude.amax(tuple(range(1, weight.dim())), keepdim=True) if per_channel else magnitude.amax()
    return largest + WEIGHT_EPS


def weight_levels(weight: torch.Tensor, bits: int, *, per_channel: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the weights as integers, and the step M/m between two of them."""
    m, limits = symmetric_levels(bits), weight_limits(weight, per_channel=per_channel)
    return torch.round(weight.detach() * m / limits), limits / m


def quantise_weight(weight: torch.Tensor, bits: int, *, per_channel: bool = False) -> torch.Tensor:
    return cast(torch.Tensor, _RoundedWeight.apply(weight, bits, per_channel))  # type: ignore[no-untyped-call]


def quantise_feature(
    values: torch.Tensor, alpha: torch.Tensor, bits: int, *, signed: bool = True, tie: float = 1.0, clips: bool = True
) -> torch.Tensor:
    """Return Q(v); without `clips` the grid continues beyond α. Negative values count as 0 unless `signed`."""
    if not torch.is_grad_enabled():
        return _on_grid(_clipped(values, alpha, signed, clips), alpha, bits, signed)
    return cast(torch.Tensor, _RoundedFeature.apply(values, alpha, bits, signed, tie, clips))  # type: ignore[no-untyped-call]


def _clipped(values: torch.Tensor, alpha: torch.Tensor, signed: bool, clips: bool) -> torch.Tensor:
    if not signed:
        values = values.clamp_min(0)
    elif clips:
        values = torch.maximum(values, -alpha)
    return values.clamp_max(alpha) if clips else values


def _on_grid(clipped: torch.Tensor, alpha: torch.Tensor, bits: int, signed: bool) -> torch.Tensor:
    levels = symmetric_levels(bits) if signed else unsigned_levels(bits)
    return (clipped * levels).div_(alpha).round_().mul_(alpha).div_(levels)


class _RoundedWeight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: torch.Tensor, bits: int, per_channel: bool) -> torch.Tensor:
        m, limits = symmetric_levels(bits), weight_limits(weight, per_channel=per_channel)
        return torch.round(weight * m / limits) * limits / m

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return upstream, None, None


class _RoundedFeature(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, values: torch.Tensor, alpha: torch.Tensor, bits: int, signed: bool, tie: float, clips: bool
    ) -> torch.Tensor:
        ctx.save_for_backward(values, alpha)
        ctx.bits, ctx.signed, ctx.tie, ctx.clips = bits, signed, tie, clips
        return _on_grid(_clipped(values, alpha, signed, clips), alpha, bits, signed)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        values, alpha = ctx.saved_tensors
        if ctx.signed:
            clipped = _clipped(values, alpha, True, ctx.clips)
            by_value, by_alpha = upstream, _on_grid(clipped, alpha, ctx.bits, True).sub_(clipped).div_(alpha)
            ends, tie = values.abs(), ctx.tie
        else:
            by_value, by_alpha = upstream.masked_fill(values < 0, 0), torch.zeros_like(values)
            ends, tie = values, 0.0
        if ctx.clips:
            # The share of a gradient that goes to α: 1 beyond the range, 1 - tie at its end, 0 within.
            share = (ends - alpha).sign_().add_(1 - tie).clamp_(0, 1)
            by_value = torch.addcmul(by_value, by_value, share, value=-1)
            by_alpha.add_(share.copysign_(values))
        return by_value, by_alpha.mul_(upstream).sum(), None, None, None, None


class Place(nn.Module):
    """A place at which a quantised network quantises a feature; this class changes nothing.

    A module with places has one before each of its own convolutions or linear layers, and one where papers quantise the
    branch that is added to a skip. `signed=False`: the feature comes from a ReLU.
    """

    def __init__(self, *, signed: bool = True) -> None:
        super().__init__()
        self.signed = signed

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


class Shortcut(nn.Module):
    """The place at which a residual block's input splits; returns the inputs of branch and skip."""

    signed = True

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x, x


Follow: TypeAlias = Callable[["Quantiser", torch.Tensor], torch.Tensor]
"""Function that returns α from the quantiser and max|v| of each sample, while α follows the features."""


class Quantiser(nn.Module):
    """A module that quantises a feature within its trained range α."""

    def __init__(self, bits: int, *, signed: bool, tie: float = 1.0, keeps_peaks: bool = False) -> None:
        super().__init__()
        self.bits, self.signed, self.tie = bits, signed, tie
        self.keeps_peaks = keeps_peaks
        """True if calibration uses the largest feature of all samples, not that of a typical sample."""
        self.alpha = nn.Parameter(torch.tensor(INITIAL_ALPHA))
        self.follow: Follow | None = None
        """If set, nothing is clipped, and α has the value that this function returns."""
        self.followed: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x, alpha = x.to(self.alpha.dtype), cast(torch.Tensor, self.alpha)
        if self.follow is not None:
            followed = self.follow(self, x.detach().abs().flatten(1).amax(1))
            # A module that runs several times (CARN-M's shared block) has one range for all its inputs.
            self.followed = followed if self.followed is None else torch.maximum(followed, self.followed)
            # The value is `followed`; the gradient goes to α.
            alpha = self.followed + (alpha - alpha.detach())
        return quantise_feature(x, alpha, self.bits, signed=self.signed, tie=self.tie, clips=self.follow is None)


class ShortcutQuantiser(Quantiser):
    """A quantiser of a residual block's skip, and of its branch input unless `plain_branch` (PAMS's code)."""

    def __init__(self, bits: int, *, signed: bool, tie: float = 1.0, plain_branch: bool = False) -> None:
        super().__init__(bits, signed=signed, tie=tie)
        self.plain_branch = plain_branch

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:  # type: ignore[override]
        quantised = super().forward(x)
        return (x if self.plain_branch else quantised), quantised


class _QuantisedWeight(nn.Module):
    """A layer with quantised weights, stored in float; `input` quantises its input."""

    bits: int
    per_channel: bool
    input: Quantiser | None
    is_baked: bool = False

    def read(self, x: torch.Tensor) -> torch.Tensor:
        return x if self.input is None else cast(torch.Tensor, self.input(x))


class QuantisedConv2d(_QuantisedWeight, nn.Conv2d):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        convolved: torch.Tensor = self._conv_forward(self.read(input), weight_of(self), self.bias)
        return convolved


class QuantisedLinear(_QuantisedWeight, nn.Linear):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return F.linear(self.read(input), weight_of(self), self.bias)


QuantisedLayer: TypeAlias = QuantisedConv2d | QuantisedLinear


def weight_of(layer: QuantisedLayer) -> torch.Tensor:
    if layer.is_baked:
        return layer.weight
    return quantise_weight(layer.weight, layer.bits, per_channel=layer.per_channel)


def bake_weights(network: nn.Module) -> None:
    """Replace the weights by the quantised ones, for converters, which need constants."""
    with torch.no_grad():
        for layer in quantised_layers(network).values():
            layer.weight.copy_(weight_of(layer))
            layer.is_baked = True


@torch.no_grad()
def round_biases(network: nn.Module, lr: torch.Tensor) -> None:
    """Round the bias of each quantised layer to the step of its integer products, M/m·α/m.

    An integer file has such biases, and the network then computes the same values. A pass of `lr` finds the features
    that each layer reads; a layer that reads float features (PAMS's conv1) keeps its bias.
    """
    quantiser_before: dict[QuantisedLayer, Quantiser] = {}
    outputs: list[tuple[Quantiser, torch.Tensor]] = []

    def note_output(module: nn.Module, inputs: Any, output: torch.Tensor | tuple[torch.Tensor, ...]) -> None:
        tensors = output if isinstance(output, tuple) else (output,)
        outputs.extend((cast(Quantiser, module), tensor) for tensor in tensors)

    def note_input(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        before = next((quantiser for quantiser, output in outputs if output is inputs[0]), None)
        if before is not None and not (isinstance(before, ShortcutQuantiser) and before.plain_branch):
            quantiser_before[cast(QuantisedLayer, module)] = before

    with ExitStack() as stack:
        for quantiser in quantisers_of(network).values():
            stack.callback(quantiser.register_forward_hook(note_output).remove)
        for layer in quantised_layers(network).values():
            stack.callback(layer.register_forward_pre_hook(note_input).remove)
        network(lr)
    for layer in quantised_layers(network).values():
        before = layer.input or quantiser_before.get(layer)
        if layer.bias is None or before is None:
            continue
        _, steps = weight_levels(layer.weight, layer.bits, per_channel=layer.per_channel)
        levels = symmetric_levels(before.bits) if before.signed else unsigned_levels(before.bits)
        steps = steps.flatten() * before.alpha / levels
        layer.bias.copy_(torch.round(layer.bias / steps) * steps)


def add_quantisers(network: nn.Module, quantisation: Quantisation, papers_layers: Sequence[str], *, arch: str) -> None:
    """Add quantisers to a float network; `papers_layers` are patterns of what papers quantise: `blocks.*.conv1`."""
    layers = {name: module for name, module in network.named_modules() if isinstance(module, (nn.Conv2d, nn.Linear))}
    whole = quantisation.placement == "all"
    edges = frozenset((next(iter(layers)), next(reversed(layers))))
    if whole:
        selection = list(layers)
    else:
        if not papers_layers:
            raise UsageError(f"placement=paper: no residual blocks are declared for a {arch}: use placement=all")
        patterns = [re.compile(re.escape(name).replace(r"\*", r"\d+")) for name in papers_layers]
        selection = [name for name in layers if any(pattern.fullmatch(name) for pattern in patterns)]
    parents = {name.rpartition(".")[0] for name in selection}
    places = {name: module for name, module in network.named_modules() if isinstance(module, (Place, Shortcut))}
    with_places = {name.rpartition(".")[0] for name in places}
    for name, place in places.items():
        if name.rpartition(".")[0] in parents:
            network.set_submodule(name, _quantiser(place, quantisation))
    for name in selection:
        bits = max(quantisation.bits, EDGE_BITS) if whole and name in edges else quantisation.bits
        layer = _quantised_layer(layers[name], bits, per_channel=whole)
        own = name.rpartition(".")[0] not in with_places
        # With enough levels, peaks are kept so that white stays white; with few, they would round off all else.
        keeps_peaks = bits >= EDGE_BITS
        layer.input = Quantiser(bits, signed=True, tie=_tie(quantisation), keeps_peaks=keeps_peaks) if own else None
        network.set_submodule(name, layer)


def _quantiser(place: nn.Module, quantisation: Quantisation) -> Quantiser:
    tie, bits = _tie(quantisation), quantisation.bits
    if isinstance(place, Shortcut):
        return ShortcutQuantiser(bits, signed=True, tie=tie, plain_branch=quantisation.compat == "pams")
    assert isinstance(place, Place)
    # PAMS always uses the symmetric form; PACT uses the unsigned one after a ReLU.
    return Quantiser(bits, signed=place.signed or quantisation.method == "pams", tie=tie)


def _tie(quantisation: Quantisation) -> float:
    return 0.5 if quantisation.compat == "pams" else 1.0


def _quantised_layer(layer: nn.Conv2d | nn.Linear, bits: int, *, per_channel: bool) -> QuantisedLayer:
    new: QuantisedLayer
    if isinstance(layer, nn.Conv2d):
        if layer.padding_mode != "zeros":
            raise UsageError(f"a convolution with padding_mode={layer.padding_mode!r} cannot be quantised")
        new = QuantisedConv2d(
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,  # type: ignore[arg-type]
            layer.stride,  # type: ignore[arg-type]
            layer.padding,  # type: ignore[arg-type]
            layer.dilation,  # type: ignore[arg-type]
            layer.groups,
            layer.bias is not None,
            device="meta",
        )
    else:
        new = QuantisedLinear(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
    assert layer.bias is None or isinstance(layer.bias, nn.Parameter)
    new.weight = layer.weight
    new.register_parameter("bias", layer.bias)
    new.bits, new.per_channel = bits, per_channel
    return new.train(layer.training)


def quantisers_of(network: nn.Module) -> dict[str, Quantiser]:
    return {name: module for name, module in network.named_modules() if isinstance(module, Quantiser)}


def quantised_layers(network: nn.Module) -> dict[str, QuantisedLayer]:
    kinds = (QuantisedConv2d, QuantisedLinear)
    return {name: module for name, module in network.named_modules() if isinstance(module, kinds)}


def quantised_bytes(network: nn.Module) -> int:
    """Return the size in bytes of the network with its quantised weights packed at their bit widths.

    The scales of the weights, every α, and all other tensors count four bytes each.
    """
    bits, packed, scales = 0, 0, 0
    for layer in quantised_layers(network).values():
        bits += layer.weight.numel() * layer.bits
        packed += layer.weight.numel()
        scales += len(layer.weight) if layer.per_channel else 1
    rest = sum(parameter.numel() for parameter in network.parameters()) - packed
    return -(-bits // 8) + FLOAT_BYTES * (rest + scales)


@contextmanager
def following(network: nn.Module, follow: Follow) -> Iterator[dict[nn.Parameter, torch.Tensor]]:
    """Disable clipping within the block, and set every α to the value that `follow` returns.

    The yielded dictionary holds these values after the block; the parameters themselves are not changed.
    """
    quantisers = list(quantisers_of(network).values())
    followed: dict[nn.Parameter, torch.Tensor] = {}
    for quantiser in quantisers:
        quantiser.follow = follow
    try:
        yield followed
    finally:
        for quantiser in quantisers:
            if quantiser.followed is not None:
                followed[quantiser.alpha] = quantiser.followed
            quantiser.follow = quantiser.followed = None
