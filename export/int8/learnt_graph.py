"""The ONNX graph in QDQ form of a network that was trained quantised, with its learnt ranges and integer weights.

feature   QuantizeLinear → DequantizeLinear, scale α/m and zero point 128 (bytes), or zero point 0 (signed)
          PACT's unsigned form: scale α/n and zero point 0; signed as above, as TensorRT reads no other zero point
weight    levels → DequantizeLinear, scale M/m, of the tensor or of each output channel; int8, or bytes with zero
          point 128, whose products are exact on every processor
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper
from torch import nn

from compressor.base.errors import SrkdError
from compressor.models.networks.base import Network
from compressor.models.quantisation.quantisers import (
    QuantisedConv2d,
    QuantisedLayer,
    Quantiser,
    ShortcutQuantiser,
    quantised_layers,
    quantisers_of,
    symmetric_levels,
    unsigned_levels,
    weight_levels,
)
from compressor.runtimes.onnx_file import set_nodes
from export.graph.onnx_graph import build_graph
from export.int8.quantise.plan import CPU, Flavour, FloatGraph

Constants: TypeAlias = Mapping[str, NDArray[Any]]
BITS = 8
"""Bits of the integers in an ONNX graph, with which runtimes compute."""


def build_learnt_graph(
    network: Network, lr_size: tuple[int, int] | None, opset: int, flavour: Flavour = CPU
) -> onnx.ModelProto:
    """The QDQ graph of a network that was trained at 8 bits, for one size (width, height) or for any.

    Signed features have zero point 0 if their range is symmetric, as TensorRT requires.
    """
    signed = flavour.values.signed
    require_eight_bits(network)
    copied = copy.deepcopy(network).to("cpu", torch.float32).eval().requires_grad_(False)
    for name, quantiser in quantisers_of(copied).items():
        copied.set_submodule(name, _feature(quantiser, signed=signed))
    for name, layer in quantised_layers(copied).items():
        copied.set_submodule(name, _IntegerLayer(layer, signed=flavour.weights.signed))
    graph = build_graph(copied, lr_size, opset, translations=_translations())
    constants = FloatGraph(graph).constants
    leave_out_lowest(graph.graph, constants)
    quantise_convolutions(graph.graph, constants, moves_relu=not signed)
    onnx.checker.check_model(graph, full_check=True)
    return graph


def require_eight_bits(network: Network) -> None:
    quantisation = network.quantisation
    if quantisation is None:
        raise SrkdError(f"the {network.spec.arch} was not trained quantised: it has learnt no ranges")
    if quantisation.bits != BITS:
        raise SrkdError(
            f"the network was trained at {quantisation.bits} bits, and integer files have {BITS}: no runtime here "
            f"computes in {quantisation.bits} bits; train with --set bits={BITS}"
        )


# The two operations as torch runs them while the graph is built.


@torch.library.custom_op("srkd::through_integers", mutates_args=())
def _through_integers(x: torch.Tensor, scale: float, zero_point: int, lowest: int) -> torch.Tensor:
    levels = torch.clamp(torch.round(x / scale) + zero_point, lowest, lowest + 255)
    return (levels - zero_point) * scale


@_through_integers.register_fake
def _(x: torch.Tensor, scale: float, zero_point: int, lowest: int) -> torch.Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("srkd::from_levels", mutates_args=())
def _from_levels(levels: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor | None) -> torch.Tensor:
    centred = levels.float() - (0 if zero_point is None else 128)
    return centred * scale.reshape(-1, *[1] * (levels.dim() - 1))


@_from_levels.register_fake
def _(levels: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor | None) -> torch.Tensor:
    return torch.empty_like(levels, dtype=torch.float32)


def _translations() -> Mapping[Callable[..., Any], Callable[..., Any]]:
    """The ONNX translations of both operations, in the form that torch's exporter takes."""
    from onnxscript import opset18

    op: Any = opset18

    def through_integers(x: Any, scale: float, zero_point: int, lowest: int) -> Any:
        kind = TensorProto.UINT8 if lowest == 0 else TensorProto.INT8
        step = op.Constant(value=helper.make_tensor("scale", TensorProto.FLOAT, (), [scale]))
        zero = op.Constant(value=helper.make_tensor("zero_point", kind, (), [zero_point]))
        return op.DequantizeLinear(op.QuantizeLinear(x, step, zero), step, zero)

    def from_levels(levels: Any, scale: Any, zero_point: Any = None) -> Any:
        return op.DequantizeLinear(levels, scale, zero_point, axis=0)

    operators = torch.ops.srkd
    return {operators.through_integers.default: through_integers, operators.from_levels.default: from_levels}


class _Feature(nn.Module):
    def __init__(self, scale: float, zero_point: int, lowest: int) -> None:
        super().__init__()
        self.scale, self.zero_point, self.lowest = scale, zero_point, lowest

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        integers: torch.Tensor = _through_integers(x, self.scale, self.zero_point, self.lowest)
        return integers


class _ShortcutFeature(nn.Module):
    def __init__(self, feature: _Feature, *, plain_branch: bool) -> None:
        super().__init__()
        self.feature, self.plain_branch = feature, plain_branch

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        quantised = self.feature(x)
        return (x if self.plain_branch else quantised), quantised


def _feature(quantiser: Quantiser, *, signed: bool) -> nn.Module:
    alpha, lowest = float(quantiser.alpha), -128 if signed else 0
    if quantiser.signed or signed:
        feature = _Feature(alpha / symmetric_levels(BITS), lowest + 128, lowest)
    else:
        feature = _Feature(alpha / unsigned_levels(BITS), lowest, lowest)
    if isinstance(quantiser, ShortcutQuantiser):
        return _ShortcutFeature(feature, plain_branch=quantiser.plain_branch)
    return feature


class _IntegerLayer(nn.Module):
    """A layer whose weights are stored as integer levels and a scale."""

    levels: torch.Tensor
    scale: torch.Tensor
    zero_point: torch.Tensor | None

    def __init__(self, layer: QuantisedLayer, *, signed: bool) -> None:
        super().__init__()
        levels, scale = weight_levels(layer.weight, BITS, per_channel=layer.per_channel)
        scale = scale.flatten() if layer.per_channel else scale
        self.register_buffer("levels", levels.to(torch.int8) if signed else (levels + 128).to(torch.uint8))
        self.register_buffer("scale", scale)
        self.register_buffer("zero_point", None if signed else torch.full_like(scale, 128, dtype=torch.uint8))
        self.layer, self.input = layer, layer.input
        self.layer.input = None
        del self.layer.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x if self.input is None else self.input(x)
        weight = _from_levels(self.levels, self.scale, self.zero_point)
        if isinstance(self.layer, QuantisedConv2d):
            convolved: torch.Tensor = self.layer._conv_forward(x, weight, self.layer.bias)
            return convolved
        return torch.nn.functional.linear(x, weight, self.layer.bias)


def quantise_convolutions(graph: onnx.GraphProto, constants: Constants, *, moves_relu: bool) -> None:
    """Quantise the output of each convolution that only a ReLU or a shuffle separates from a QuantizeLinear.

    A runtime computes a convolution in integers if a QuantizeLinear follows directly. Both operators commute with
    rounding, so quantising twice on one grid gives the same numbers. ONNX Runtime computes such a ReLU in integers as
    a LeakyRelu of slope 0.
    """
    consumers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            consumers.setdefault(name, []).append(node)
    by_output = _producers(graph)
    nodes = list(graph.node)
    for pair in [node for node in graph.node if node.op_type == "QuantizeLinear"]:
        while (before := by_output.get(pair.input[0])) is not None and len(consumers[pair.input[0]]) == 1:
            if before.op_type != "DepthToSpace" and not (before.op_type == "Relu" and moves_relu):
                break
            if before.op_type == "Relu" and _is_lowest(constants[pair.input[2]]):
                break  # the range begins at 0, so runtimes merge this ReLU into the rounding
            pair = _quantise_before(before, pair, nodes, by_output)
            consumers[pair.input[0]] = [pair]
            consumers[before.input[0]] = [before]
            if before.op_type == "Relu":
                before.op_type = "LeakyRelu"
                before.attribute.append(helper.make_attribute("alpha", 0.0))
    set_nodes(graph, nodes)


def _quantise_before(
    node: onnx.NodeProto, pair: onnx.NodeProto, nodes: list[onnx.NodeProto], by_output: dict[str, onnx.NodeProto]
) -> onnx.NodeProto:
    """Insert a QuantizeLinear and a DequantizeLinear with `pair`'s scale before `node`; return the QuantizeLinear."""
    source, (scale, zero_point) = node.input[0], pair.input[1:]
    name = f"{node.output[0]}.before"
    integers, rounded = f"{name}.levels", f"{name}.rounded"
    quantise = helper.make_node("QuantizeLinear", [source, scale, zero_point], [integers], name=f"{name}/quantise")
    dequantise = helper.make_node("DequantizeLinear", [integers, scale, zero_point], [rounded], name=f"{name}/back")
    place = next(index for index, other in enumerate(nodes) if other is node)
    nodes[place:place] = [quantise, dequantise]
    by_output.update({integers: quantise, rounded: dequantise})
    node.input[0] = rounded
    return quantise


def leave_out_lowest(graph: onnx.GraphProto, constants: Constants) -> None:
    """Insert a Clip at each symmetric range, whose bytes would have one level more below zero than above."""
    producers, nodes = _producers(graph), []
    for node in graph.node:
        source = producers.get(node.input[0]) if node.op_type == "QuantizeLinear" else None
        nodes.append(node)
        if node.op_type != "QuantizeLinear" or _is_lowest(constants[node.input[2]]):
            continue
        if source is not None and source.op_type == "Relu":
            continue
        zero_point = constants[node.input[2]]
        name = f"{node.output[0]}.lowest"
        if zero_point.dtype == np.uint8:
            levels = f"{node.output[0]}.all"
            graph.initializer.append(onnx.numpy_helper.from_array(np.array(1, np.uint8), name))
            nodes.append(helper.make_node("Clip", [levels, name], [node.output[0]], name=f"{levels}/clip"))
            node.output[0] = levels
        else:
            lowest = -symmetric_levels(BITS) * constants[node.input[1]]
            graph.initializer.append(onnx.numpy_helper.from_array(lowest.astype(np.float32), name))
            clipped = f"{node.output[0]}.clipped"
            nodes.insert(-1, helper.make_node("Clip", [node.input[0], name], [clipped], name=f"{clipped}/clip"))
            node.input[0] = clipped
    set_nodes(graph, nodes)


def _producers(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    return {name: node for node in graph.node for name in node.output}


def _is_lowest(zero_point: NDArray[Any]) -> bool:
    """Whether a zero point is the lowest value of its type."""
    return int(zero_point) == int(np.iinfo(zero_point.dtype).min)
