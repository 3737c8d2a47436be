"""Equalisation of channels where positive factors pass through the operators between layers: f(c·x) = c·f(x).

    producers   W ← W/s, b ← b/s      readers   W ← W·s      s = (peak of the channel / largest peak)^1/2

ReLU, LeakyReLU and PReLU pass a factor on, and so do sums, concatenations and shuffles: values that these connect share
one factor per channel. Small channels then use more levels of a value's grid (Nagel et al., Data-Free Quantization,
ICCV 2019). The factor is only the root, as the precision that a channel gains is lost in its readers' weights.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper

from export.formats.proof_inputs import ProofInput
from export.graph.headroom import measure_graph
from export.graph.onnx_graph import attribute_of
from export.int8.quantise.plan import FloatGraph, Layer, make_plan

SMALLEST = 1e-3
"""Smallest share of the largest peak that a channel's peak counts as: weaker channels are not raised further."""

ACTIVATIONS = frozenset({"Relu", "LeakyRelu", "PRelu"})
"""Operators with f(c x) = c f(x) for c > 0, channel by channel."""


def equalise_channels(graph: FloatGraph, patches: torch.Tensor) -> FloatGraph:
    """The graph with its channels equalised by their peaks on the patches."""
    plan = make_plan(graph)
    convolutions = {index: layer for index, layer in plan.layers.items() if layer.kind == "conv"}
    ties = _Ties(graph, convolutions)
    # One by one: a graph for a fixed size takes a batch of one.
    inputs = [ProofInput(f"patch {n}", lr[None]) for n, lr in enumerate(patches)]
    peaks, _ = measure_graph(graph.model, inputs)
    scales = ties.scales({name: peaks[name].channels for name in plan.grids if name in peaks})
    model = copy.deepcopy(graph.model)
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    rescaled: set[str] = set()
    for index, layer in convolutions.items():
        node = graph.nodes[index]
        if layer.weight in rescaled:
            continue
        rescaled.add(layer.weight)
        rows, columns = scales[ties.of[node.output[0]]], scales[ties.of[node.input[0]]]
        _multiply(stored[layer.weight], 1 / rows.reshape(-1, 1, 1, 1))
        groups = len(columns) // stored[layer.weight].dims[1]
        # Row o of a grouped convolution reads the channels of its group only.
        by_row = np.repeat(columns.reshape(groups, -1), len(rows) // groups, axis=0)
        _multiply(stored[layer.weight], by_row[:, :, None, None])
        if layer.bias is not None and layer.bias not in rescaled:
            rescaled.add(layer.bias)
            _multiply(stored[layer.bias], 1 / rows)
    return FloatGraph(model, graph.images)


class _Ties:
    """The channels of a graph's values, each with a number; those of one class share a factor; 0 is not rescaled."""

    def __init__(self, graph: FloatGraph, convolutions: Mapping[int, Layer]) -> None:
        self.graph, self.convolutions = graph, convolutions
        self.classes = np.zeros(1, np.int64)
        """The class of each number, its lowest one."""
        self.channels = graph.channels
        self.of: dict[str, NDArray[np.int64]] = {}
        """The numbers of a value's channels, by its name."""
        self.through_activations: list[NDArray[np.int64]] = []
        for value in graph.model.graph.input:
            self.of[value.name] = np.zeros(self.channels.get(value.name, 1), np.int64)
        for index, node in enumerate(graph.nodes):
            self._visit(index, node)
        for name in graph.outputs:
            self._fix(name)
        self._tie_shared()

    def _visit(self, index: int, node: onnx.NodeProto) -> None:
        values = [name for name in node.input if name in self.graph.floats]
        (result, *others) = node.output
        if index in self.convolutions:
            count = len(self.graph.constants[self.convolutions[index].weight])
            self.of[result] = np.arange(len(self.classes), len(self.classes) + count)
            self.classes = np.concatenate([self.classes, self.of[result]])
        elif node.op_type in {*ACTIVATIONS, "Identity"} and len(values) == 1:
            self.of[result] = self._of(values[0])
            if node.op_type in ACTIVATIONS:
                self.through_activations.append(self.of[result])
        elif node.op_type in ("Add", "Sub") and len(values) == 2 and len({len(self._of(name)) for name in values}) == 1:
            self._tie(*(self._of(value) for value in values))
            self.of[result] = self._of(values[0])
        elif node.op_type == "Concat" and len(values) == len(node.input) and attribute_of(node, "axis") in (1, -3):
            self.of[result] = np.concatenate([self._of(value) for value in values])
        elif node.op_type == "DepthToSpace" and result in self.channels:
            self.of[result] = self._shuffled(self._of(values[0]), node)
        else:
            for name in (*values, result, *others):
                self._fix(name)

    def _shuffled(self, before: NDArray[np.int64], node: onnx.NodeProto) -> NDArray[np.int64]:
        """Tie the channels that a shuffle merges; return the numbers of its result."""
        places = attribute_of(node, "blocksize") ** 2
        in_rows = attribute_of(node, "mode") == b"CRD"
        by_channel = before.reshape(-1, places) if in_rows else before.reshape(places, -1).T
        for column in by_channel.T[1:]:
            self._tie(by_channel[:, 0], column)
        return by_channel[:, 0]

    def _tie_shared(self) -> None:
        """Tie the values of layers that share weights; do not rescale a bias that several weights share."""
        first: dict[tuple[str, str], str] = {}
        weights: dict[str, str] = {}
        for index, layer in self.convolutions.items():
            node = self.graph.nodes[index]
            for end, value in (("writes", node.output[0]), ("reads", node.input[0])):
                other = first.setdefault((end, layer.weight), value)
                self._tie(self._of(other), self._of(value))
            if layer.bias is not None and weights.setdefault(layer.bias, layer.weight) != layer.weight:
                for other_layer in self.convolutions.values():
                    if other_layer.bias == layer.bias:
                        self._fix(self.graph.nodes[other_layer.index].output[0])

    def _of(self, name: str) -> NDArray[np.int64]:
        if name not in self.of:
            self.of[name] = np.zeros(self.channels.get(name, 1), np.int64)
        return self.of[name]

    def _fix(self, name: str) -> None:
        self._tie(self._of(name), np.zeros_like(self._of(name)))

    def _tie(self, first: NDArray[np.int64], second: NDArray[np.int64]) -> None:
        for left, right in zip(first.tolist(), second.tolist(), strict=True):
            low, high = sorted((self.classes[left], self.classes[right]))
            self.classes[self.classes == high] = low

    def scales(self, peaks: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
        """The factor s of every number, by the values' peaks per channel."""
        shares = np.zeros(len(self.classes))
        for name, peak in peaks.items():
            if name in self.of and peak.shape == self.of[name].shape and np.isfinite(peak).all() and peak.max() > 0:
                np.maximum.at(shares, self.classes[self.of[name]], peak / peak.max())
        free = np.zeros(len(self.classes), bool)
        for numbers in self.through_activations:
            free[self.classes[numbers]] = True
        free[0] = False
        scales = np.where(free & (shares > 0), np.sqrt(np.maximum(shares, SMALLEST)), 1.0)
        return scales[self.classes]


def _multiply(tensor: onnx.TensorProto, factors: NDArray[np.float64]) -> None:
    product = (numpy_helper.to_array(tensor).astype(np.float64) * factors).astype(np.float32)
    tensor.CopyFrom(numpy_helper.from_array(product, tensor.name))
