"""Which nodes of a file in eight bits its runtime really computes with integers.

A file says where values may be bytes; what a runtime has no integer form of, it computes in float, with conversions
before and after. So the graph is read that the runtime made of the file: ONNX Runtime writes the one that it optimised,
OpenVINO shows the one that it executes. Nodes that only move values compute nothing, and do not count.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto

from compressor.base.errors import one_line
from compressor.runtimes.base import Runtime

MOST_NAMED = 5
"""Kinds of nodes that a sentence names; the rest is in the facts."""

BYTES = frozenset({TensorProto.INT8, TensorProto.UINT8})
FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16})

CONVERSIONS = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"})
MOVES = frozenset(
    {
        *("Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "Identity", "NhwcToNchw", "NchwToNhwc", "Pad"),
        *("ReorderInput", "ReorderOutput", "Reshape", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose"),
        *("Unsqueeze", "Where"),
    }
)
"""ONNX operators whose results are values of their inputs, in another place."""

LISTED_KINDS = frozenset({"Shape", "Size", "NonZero", "ArgMax", "ArgMin"})
"""Operators whose results are places or sizes."""

OPENVINO_CONVERSIONS = frozenset({"FakeQuantize", "Convert", "Quantize"})
OPENVINO_MOVES = frozenset(
    {
        *("Broadcast", "Concatenation", "Const", "DepthToSpace", "Gather", "Input", "MemoryInput", "MemoryOutput"),
        *("Output", "Pad", "Reorder", "Reshape", "Result", "ShapeOf", "SpaceToDepth", "Split", "StridedSlice"),
        *("Subgraph_shape", "Tile", "Transpose"),
    }
)


@dataclass(frozen=True)
class IntegerNodes:
    """The nodes that compute, those of them that compute with bytes, and the others by their operator."""

    nodes: int
    nodes_in_int8: int
    in_float: Mapping[str, int]
    conversions: int
    """Nodes that only turn floats into bytes or bytes into floats; `nodes` is without them."""

    def __str__(self) -> str:
        """Return it in a few words, such as `12 of 29 nodes compute in integers, PRelu 17 in float`."""
        words = f"{self.nodes_in_int8} of {self.nodes} nodes compute in integers"
        if not self.in_float:
            return words
        named = [f"{kind} {count}" for kind, count in list(self.in_float.items())[:MOST_NAMED]]
        more = sum(list(self.in_float.values())[MOST_NAMED:])
        return f"{words}, {', '.join(named)}{f' and {more} others' if more else ''} in float"


def count_integer_nodes(file: Runtime, path: Path) -> IntegerNodes | None:
    """Return what the runtime of an open file computes with integers; None where it does not show its graph."""
    read = READERS.get(file.name)
    if read is None or file.device != "cpu":
        return None
    with one_line(f"{path}: {file.name} does not show its graph", first=True):
        return _count(read(path))


def _count(kinds: Iterator[tuple[str, str]]) -> IntegerNodes:
    """Count nodes, each given as "int8", "float" or "conversion" and its operator."""
    integers, conversions, floats = 0, 0, Counter[str]()
    for kind, operator in kinds:
        integers += kind == "int8"
        conversions += kind == "conversion"
        if kind == "float":
            floats[operator] += 1
    ranked = dict(sorted(floats.items(), key=lambda item: (-item[1], item[0])))
    return IntegerNodes(integers + floats.total(), integers, ranked, conversions)


def _read_onnxruntime(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the nodes of the graph that ONNX Runtime makes of a file for this processor."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    with tempfile.TemporaryDirectory(prefix="srkd-") as folder:
        optimised = Path(folder, "optimised.onnx")
        options.optimized_model_filepath = str(optimised)
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        graph = onnx.load_model(str(optimised)).graph
    # ONNX Runtime's own operators are unknown to ONNX's shape inference, and what the file says of values is stale.
    kinds = {tensor.name: tensor.data_type for tensor in graph.initializer}
    kinds |= {value.name: value.type.tensor_type.elem_type for value in graph.input}
    for node in graph.node:
        given = [kinds[name] for name in node.input if name in kinds]
        result = _result_kind(node, given, kinds)
        kinds |= dict.fromkeys(node.output, result)
        changes = node.op_type == "Cast" and bool(BYTES & {result, *given}) and bool(FLOATS & {result, *given})
        if node.op_type in CONVERSIONS or changes:
            yield "conversion", node.op_type
        elif node.op_type in MOVES or node.op_type in LISTED_KINDS or node.op_type in ("Cast", "Constant"):
            continue
        elif BYTES & {result, *given}:
            yield "int8", node.op_type
        elif result in FLOATS:
            yield "float", node.op_type.removeprefix("Fused")


def _result_kind(node: onnx.NodeProto, given: list[int], kinds: Mapping[str, int]) -> int:
    """Return the element type of a node's first output."""
    if node.op_type == "DequantizeLinear" or node.op_type.endswith("ToFloat"):
        return TensorProto.FLOAT
    if node.op_type in ("QuantizeLinear", "DynamicQuantizeLinear"):
        return kinds.get(node.input[2], TensorProto.UINT8) if len(node.input) > 2 else TensorProto.UINT8
    if node.op_type.startswith("QLinear") or node.op_type == "QGemm":
        # What comes out has the type of the last zero point; only QGemm may leave it out, and gives floats then.
        return given[-1] if given[-1] in BYTES else TensorProto.FLOAT
    if node.op_type in ("MatMulInteger", "ConvInteger"):
        return TensorProto.INT32
    if node.op_type in LISTED_KINDS:
        return TensorProto.INT64
    for attribute in node.attribute:
        if node.op_type == "Cast" and attribute.name == "to":
            return int(attribute.i)
        if node.op_type == "Constant" and attribute.name == "value":
            return int(attribute.t.data_type)
    return given[0] if given else TensorProto.UNDEFINED


def _read_openvino(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the nodes of the graph that OpenVINO executes on this processor."""
    import openvino

    core = openvino.Core()
    model = core.read_model(path)
    operators = {node.get_friendly_name(): node.get_type_name() for node in model.get_ops()}
    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1}
    for node in core.compile_model(model, "CPU", settings).get_runtime_model().get_ordered_ops():
        facts = {key: str(node.rt_info[key].astype(str)) for key in ("layerType", "runtimePrecision")}
        names = str(node.rt_info["originalLayersNames"].astype(str)).split(",")
        if facts["layerType"] in OPENVINO_CONVERSIONS:
            yield "conversion", facts["layerType"]
        elif facts["layerType"] not in OPENVINO_MOVES:
            known = (operators[name] for name in names if operators.get(name, "Constant") not in NOT_NAMED)
            integer = facts["runtimePrecision"] in ("i8", "u8")
            yield "int8" if integer else "float", next(known, facts["layerType"])


NOT_NAMED = OPENVINO_CONVERSIONS | {"Constant"}
"""What the executed graph lists first among the operators that a node stands for, though another one is computed."""

READERS: Mapping[str, Callable[[Path], Iterator[tuple[str, str]]]] = {
    "onnxruntime": _read_onnxruntime,
    "openvino": _read_openvino,
}
