"""The nodes that ONNX Runtime executes for a file, from the graph that it optimises for this processor."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import onnx
from onnx import TensorProto

from compressor.runtimes.table import ExecutedNode

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
"""ONNX operators that only move values of their inputs."""

LISTED_KINDS = frozenset({"Shape", "Size", "NonZero", "ArgMax", "ArgMin"})
"""Operators whose results are indices or sizes."""


def executed_nodes(path: Path) -> Iterator[ExecutedNode]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    with tempfile.TemporaryDirectory(prefix="srkd-") as folder:
        optimised = Path(folder, "optimised.onnx")
        options.optimized_model_filepath = str(optimised)
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        graph = onnx.load_model(str(optimised)).graph
    # ONNX's shape inference does not know ONNX Runtime's own operators, and the value types in the file are outdated.
    kinds = {tensor.name: tensor.data_type for tensor in graph.initializer}
    kinds |= {value.name: value.type.tensor_type.elem_type for value in graph.input}
    for node in graph.node:
        kinds_in = [kinds[name] for name in node.input if name in kinds]
        result = _result_kind(node, kinds_in, kinds)
        kinds |= dict.fromkeys(node.output, result)
        changes = node.op_type == "Cast" and bool(BYTES & {result, *kinds_in}) and bool(FLOATS & {result, *kinds_in})
        if node.op_type in CONVERSIONS or changes:
            yield "conversion", node.op_type
        elif node.op_type in MOVES or node.op_type in LISTED_KINDS or node.op_type in ("Cast", "Constant"):
            continue
        elif BYTES & {result, *kinds_in}:
            yield "int8", node.op_type
        elif result in FLOATS:
            yield "float", node.op_type.removeprefix("Fused")


def _result_kind(node: onnx.NodeProto, kinds_in: list[int], kinds: Mapping[str, int]) -> int:
    """The element type of a node's first output."""
    if node.op_type == "DequantizeLinear" or node.op_type.endswith("ToFloat"):
        return TensorProto.FLOAT
    if node.op_type in ("QuantizeLinear", "DynamicQuantizeLinear"):
        return kinds.get(node.input[2], TensorProto.UINT8) if len(node.input) > 2 else TensorProto.UINT8
    if node.op_type.startswith("QLinear") or node.op_type == "QGemm":
        # The output has the type of the last zero point; only QGemm may omit it, and then returns floats.
        return kinds_in[-1] if kinds_in[-1] in BYTES else TensorProto.FLOAT
    if node.op_type in ("MatMulInteger", "ConvInteger"):
        return TensorProto.INT32
    if node.op_type in LISTED_KINDS:
        return TensorProto.INT64
    for attribute in node.attribute:
        if node.op_type == "Cast" and attribute.name == "to":
            return int(attribute.i)
        if node.op_type == "Constant" and attribute.name == "value":
            return int(attribute.t.data_type)
    return kinds_in[0] if kinds_in else TensorProto.UNDEFINED
