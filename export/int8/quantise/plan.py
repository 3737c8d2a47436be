"""The choice of a graph's nodes that compute in int8, and so of the values that lie on grids.

Layers with stored weights compute in int8, and so do sums and products of values, except the parts that are to
stay in float. Operators that only move values keep their grid. An activation directly after a layer belongs to it: the
value between them is never stored. Everything else (softmax, norms, GELU) is float, and so are:

- a gate, from the pooling of a whole image to its sigmoid: one pixel per image costs nothing, its error affects all
- a sum whose result is the image itself, unless it is rounded to the image's own bytes: its error is directly visible

A flavour with `everything` leaves nothing in float; stored operands such as a PReLU's slopes are integers, too.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, TypeProto, helper, numpy_helper

from compressor.base.errors import SrkdError
from export.graph.onnx_graph import attribute_of
from export.int8.float_parts import NOTHING, FloatParts
from export.int8.quantise.grids import S8, U8, U16, Grid, Levels, whole_range

SUMS = frozenset({"Add", "Sub", "Mul", "Concat"})
MOVES = frozenset(
    {
        *("DepthToSpace", "SpaceToDepth", "Reshape", "Transpose", "MaxPool"),
        *("Slice", "Squeeze", "Unsqueeze", "Flatten", "Relu"),
    }
)
"""Operators whose results are values of their first input, or zero (Relu); so is a Resize that copies pixels."""

FUSED = frozenset({"Relu", "Clip"})
"""Activations that a runtime computes with the layer before them."""

BOUNDS = frozenset({"Clip", "Pad", "Resize"})
"""Operators whose stored operands are numbers of the operator: limits, a padding value, factors."""

POOLS = frozenset({"GlobalAveragePool", "ReduceMean"})


@dataclass(frozen=True)
class Flavour:
    """The rules of a runtime for computing in int8."""

    name: str
    values: Levels
    weights: Levels
    integer_bias: bool
    """True if the bias is an integer too, on the grid of the products. TensorRT takes it in float."""
    image_bytes: bool
    """True if the image itself is on the grid of bytes, at both ends. Without a zero point it could use only half of
    the levels, so the last layer returns floats instead."""
    elsewhere: bool = False
    """True if files run on another chip than a CPU, so that here they compute in float on their grids."""
    everything: bool = False
    """True if every node computes with integers, for chips that have no float beside them."""


CPU = Flavour("cpu", U8, S8, integer_bias=True, image_bytes=True)
TENSORRT = Flavour("tensorrt", S8, S8, integer_bias=False, image_bytes=False, elsewhere=True)
QNN = Flavour("qnn-w8a8", U8, S8, integer_bias=True, image_bytes=True, elsewhere=True, everything=True)
"""Qualcomm's NPUs: QNN-ExecutionProvider.md of onnxruntime-qnn, and `get_qnn_qdq_config` of
ONNX Runtime: values unsigned with a zero point, weights signed with a scale for each channel."""
QNN16 = Flavour("qnn-w8a16", U16, S8, integer_bias=True, image_bytes=True, elsewhere=True, everything=True)
"""The same with values of sixteen bits."""


@dataclass(frozen=True)
class FloatGraph:
    """A float graph with cached facts. Nodes are identified by their index; `images` are the names of the values that
    are the image itself (`ends.py`)."""

    model: onnx.ModelProto
    images: frozenset[str] = frozenset()

    @cached_property
    def nodes(self) -> tuple[onnx.NodeProto, ...]:
        return tuple(self.model.graph.node)

    @cached_property
    def constants(self) -> Mapping[str, NDArray[Any]]:
        stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in self.model.graph.initializer}
        for node in self.nodes:
            if node.op_type == "Constant":
                value = helper.get_attribute_value(node.attribute[0])
                stored[node.output[0]] = (
                    numpy_helper.to_array(value) if isinstance(value, TensorProto) else np.asarray(value)
                )
        return stored

    @cached_property
    def producer(self) -> Mapping[str, int]:
        return {name: index for index, node in enumerate(self.nodes) for name in node.output if name}

    @cached_property
    def users(self) -> Mapping[str, tuple[int, ...]]:
        users: dict[str, list[int]] = {}
        for index, node in enumerate(self.nodes):
            for name in dict.fromkeys(node.input):
                if name:
                    users.setdefault(name, []).append(index)
        return {name: tuple(places) for name, places in users.items()}

    @cached_property
    def outputs(self) -> frozenset[str]:
        return frozenset(value.name for value in self.model.graph.output)

    @cached_property
    def types(self) -> Mapping[str, TypeProto.Tensor]:
        inferred = onnx.shape_inference.infer_shapes(self.model, data_prop=True).graph
        values = (*inferred.input, *inferred.output, *inferred.value_info)
        return {value.name: value.type.tensor_type for value in values}

    @cached_property
    def channels(self) -> Mapping[str, int]:
        """The number of channels of each value of shape (N, C, H, W)."""
        shapes = {name: kind.shape.dim for name, kind in self.types.items()}
        return {name: dims[1].dim_value for name, dims in shapes.items() if len(dims) == 4 and dims[1].dim_value}

    @cached_property
    def floats(self) -> frozenset[str]:
        """The names of the float32 values that are not constants."""
        floats = (name for name, kind in self.types.items() if kind.elem_type == TensorProto.FLOAT)
        return frozenset(floats).difference(self.constants)

    @cached_property
    def layers(self) -> Mapping[int, Layer]:
        """The nodes with stored weights that can be quantised, by index."""
        return {index: layer for index, node in enumerate(self.nodes) if (layer := self._layer(index, node))}

    def _layer(self, index: int, node: onnx.NodeProto) -> Layer | None:
        if node.op_type not in ("Conv", "Gemm", "MatMul") or len(node.input) < 2:
            return None
        weight = self.constants.get(node.input[1])
        if weight is None or weight.dtype != np.float32 or node.input[0] not in self.floats:
            return None
        attributes = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
        bias = node.input[2] if len(node.input) > 2 and node.input[2] else None
        if node.op_type == "Conv" and weight.ndim == 4:
            pads = list(attributes.get("pads", [0, 0, 0, 0]))
            ones = all(set(attributes.get(name, [1])) == {1} for name in ("strides", "dilations"))
            if pads[:2] != pads[2:] or not ones or attributes.get("auto_pad", b"NOTSET") != b"NOTSET":
                return None
            return Layer(index, node.name, node.input[1], bias, "conv", attributes.get("group", 1), tuple(pads[:2]))
        if weight.ndim != 2 or node.op_type == "Conv":
            return None
        if node.op_type == "MatMul":
            return Layer(index, node.name, node.input[1], self._added(node, len(weight[0])), "columns")
        is_plain = attributes.get("alpha", 1.0) == attributes.get("beta", 1.0) == 1.0
        if not is_plain or attributes.get("transA", 0):
            return None
        return Layer(index, node.name, node.input[1], bias, "rows" if attributes.get("transB", 0) else "columns")

    def _added(self, node: onnx.NodeProto, size: int) -> str | None:
        """The name of the stored vector that is added to a product, its bias; None without one."""
        (name,) = node.output
        if len(self.users.get(name, ())) != 1 or name in self.outputs:
            return None
        follower = self.nodes[self.users[name][0]]
        others = [other for other in follower.input if other != name]
        if follower.op_type != "Add" or len(others) != 1 or others[0] not in self.constants:
            return None
        return others[0] if self.constants[others[0]].shape == (size,) and len(self.users[others[0]]) == 1 else None

    def sole_user(self, name: str) -> int | None:
        """The only node that reads a value; None if there are others or the value is an output."""
        users = self.users.get(name, ())
        return users[0] if len(users) == 1 and name not in self.outputs else None


@dataclass(frozen=True)
class Layer:
    """A layer: its node, the names of its weight and bias, and the layout of the weight by `kind`.

    conv: (rows, columns of a group, h, w); rows: (rows, columns); columns: (columns, rows).
    """

    index: int
    name: str
    weight: str
    bias: str | None
    kind: str
    groups: int = 1
    padding: tuple[int, ...] = (0, 0)


@dataclass(frozen=True)
class QuantisationPlan:
    """The quantised parts of a graph.

    `grids` maps the values that lie on a grid, in the order of the graph, to the value whose grid they share, or to
    None if they have their own. `integer` are the nodes that read quantised values, `on_grid` those whose results exist
    only in quantised form.
    """

    graph: FloatGraph
    flavour: Flavour
    parts: FloatParts
    layers: Mapping[int, Layer]
    integer: frozenset[int]
    on_grid: frozenset[int]
    grids: Mapping[str, str | None]
    operands: Mapping[str, Grid] = field(default_factory=dict)
    """The grids of stored operands that are not a layer's weight or bias, by their names."""

    def why_in_float(self, index: int) -> str | None:
        """Why a layer or a sum computes in float, for the node's doc_string; None if it doesn't, or is neither."""
        node, layer = self.graph.nodes[index], self.graph.layers.get(index)
        if index in self.integer or (layer is None and node.op_type not in SUMS):
            return None
        if layer is not None and layer.name in self.parts.layers:
            return "in float, so that the file loses little enough"
        if not self.flavour.image_bytes and _result(self.graph, index) in self.graph.images:
            return "in float: bytes without a zero point hold only half of an image's levels"
        return None

    def reads_grid(self, index: int, name: str) -> bool:
        """Whether a node reads a quantised value: if it is an integer node, or if no float value exists."""
        if name not in self.grids:
            return False
        return index in self.integer or self.graph.producer.get(name) in self.on_grid


def fused_activation(graph: FloatGraph, index: int) -> int | None:
    """The index of the activation that a runtime computes with a node, or None."""
    user = graph.sole_user(graph.nodes[index].output[0])
    return user if user is not None and graph.nodes[user].op_type in FUSED else None


def _result(graph: FloatGraph, index: int) -> str:
    """The value that a node and the activation computed with it write."""
    last = fused_activation(graph, index)
    (result,) = graph.nodes[index if last is None else last].output
    return str(result)


def make_plan(graph: FloatGraph, flavour: Flavour = CPU, parts: FloatParts = NOTHING) -> QuantisationPlan:
    unknown = parts.layers - {layer.name for layer in graph.layers.values()}
    if unknown:
        raise SrkdError(f"the graph has no layer called {sorted(unknown)[0]!r}")
    gates = set() if flavour.everything else set(_gates(graph))
    layers = {
        index: layer
        for index, layer in graph.layers.items()
        if layer.name not in parts.layers
        and index not in gates
        and (flavour.image_bytes or not graph.images >= {graph.nodes[index].input[0], graph.nodes[index].output[0]})
    }
    byte_images = graph.images if flavour.image_bytes else frozenset[str]()
    sums = () if parts.sums else tuple(_sums(graph, gates, byte_images))
    integer = {*layers, *sums}
    grids: dict[str, str | None] = {}
    on_grid: set[int] = set()
    inputs = {name for index in integer for name in graph.nodes[index].input if name in graph.floats}
    rest = set(range(len(graph.nodes))) if flavour.everything else set()
    for index, node in enumerate(graph.nodes):
        for name in node.input:
            if name in inputs:
                grids.setdefault(name, None)
        if index in integer:
            if node.op_type == "MatMul" and not flavour.everything:  # runtimes return its products in float
                continue
            last, result = fused_activation(graph, index), _result(graph, index)
            if not flavour.image_bytes and (result in graph.images or _is_added_to_image(graph, result)):
                continue
            grids.setdefault(result, None)
            on_grid |= {index} if last is None else {index, last}
        elif _moves_grid(graph, index, grids, on_grid, byte_images):
            grids.setdefault(node.output[0], node.input[0])
            integer.add(index)
            on_grid.add(index)
        elif index in rest - on_grid and len(node.output) == 1 and any(name in graph.floats for name in node.input):
            for name in node.input:
                if name in graph.floats:
                    grids.setdefault(name, None)
            last = fused_activation(graph, index)
            grids.setdefault(_result(graph, index), None)
            integer.add(index)
            on_grid |= {index} if last is None else {index, last}
    operands = _operands(graph, integer - set(layers), flavour.values) if flavour.everything else {}
    return QuantisationPlan(graph, flavour, parts, layers, frozenset(integer), frozenset(on_grid), grids, operands)


def _operands(graph: FloatGraph, nodes: set[int], levels: Levels) -> dict[str, Grid]:
    """The grids of stored floats that these nodes compute with, each over its whole range."""
    names = {name for index in nodes if graph.nodes[index].op_type not in BOUNDS for name in graph.nodes[index].input}
    stored = {name: graph.constants[name] for name in names if name in graph.constants}
    return {
        name: whole_range(float(values.min()), float(values.max()), levels)
        for name, values in stored.items()
        if values.dtype == np.float32
    }


def _moves_grid(
    graph: FloatGraph, index: int, grids: Container[str], on_grid: Container[int], images: Container[str]
) -> bool:
    """True if the node rearranges values that are stored only as integers, or that are the image's bytes."""
    node = graph.nodes[index]
    if index in on_grid or not (node.op_type in MOVES or enlarges_by_copies(node)) or node.input[0] not in grids:
        return False
    return node.input[0] in images or graph.producer.get(node.input[0], -1) in on_grid


def enlarges_by_copies(node: onnx.NodeProto) -> bool:
    return node.op_type == "Resize" and attribute_of(node, "mode", b"nearest") == b"nearest"


def _is_added_to_image(graph: FloatGraph, name: str) -> bool:
    """True if a value is only rearranged and added to the image's own pixels, which gives the image."""
    user = graph.sole_user(name)
    while user is not None and graph.nodes[user].op_type in MOVES:
        user = graph.sole_user(graph.nodes[user].output[0])
    if user is None or graph.nodes[user].op_type != "Add" or not graph.images.intersection(graph.nodes[user].input):
        return False
    return _result(graph, user) in graph.images


def _gates(graph: FloatGraph) -> Iterator[int]:
    """Yield the nodes that compute on the pooled value of a whole image."""
    pooled: set[str] = set()
    for index, node in enumerate(graph.nodes):
        if node.op_type in POOLS and _is_whole_image(graph, node):
            pooled.update(node.output)
            continue
        inputs = [name for name in node.input if name in graph.floats]
        if inputs and all(name in pooled for name in inputs):
            pooled.update(node.output)
            yield index


def _is_whole_image(graph: FloatGraph, node: onnx.NodeProto) -> bool:
    if node.op_type == "GlobalAveragePool":
        return True
    axes = attribute_of(node, "axes")
    if axes is None and len(node.input) > 1 and node.input[1] in graph.constants:
        axes = [int(axis) for axis in graph.constants[node.input[1]].reshape(-1)]
    return axes is not None and sorted(axis % 4 for axis in axes) == [2, 3]


def _sums(graph: FloatGraph, gates: set[int], images: frozenset[str]) -> Iterator[int]:
    """Yield the sums and products of values whose results lead to a layer or are the image in bytes."""
    leads_on: set[str] = set()
    for index in reversed(range(len(graph.nodes))):
        node = graph.nodes[index]
        goes_on = any(name in leads_on for name in node.output)
        if index in graph.layers or goes_on:
            leads_on.update(node.input)
        values = [name for name in node.input if name in graph.floats]
        if node.op_type not in SUMS or index in gates or len(values) < len(node.input):
            continue
        if goes_on or _result(graph, index) in images:
            yield index
