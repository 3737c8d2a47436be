"""A half-precision ONNX file as float32 arithmetic with every result rounded, as hardware rounds it.

ONNX Runtime on a CPU computes an fp16 file in float32 from end to end: what overflows on every GPU passes there. bf16
it does not compute at all. Rounding each result makes both tell the truth, slowly.
"""

from __future__ import annotations

import onnx
from onnx import TensorProto, numpy_helper

from compressor.errors import SrkdError

HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)

EXACT = frozenset(
    {
        *(
            "Abs",
            "Concat",
            "Constant",
            "ConstantOfShape",
            "DepthToSpace",
            "Expand",
            "Flatten",
            "Gather",
            "Identity",
            "Max",
        ),
        *("MaxPool", "Min", "Neg", "Relu", "Reshape", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile"),
        *("Transpose", "Unsqueeze", "Where"),
    }
)
"""What only moves or chooses values: what was rounded before needs no rounding after."""


def rounded(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in float32, inputs and outputs too. Names of values stay, so that each can be looked at."""
    if any(node.domain not in ("", "ai.onnx") or _has_graph(node) for node in model.graph.node):
        raise SrkdError("it holds operators of its own, so its half precision cannot be followed on this device")
    copy = onnx.ModelProto()
    copy.CopyFrom(onnx.shape_inference.infer_shapes(model, data_prop=True))
    graph = copy.graph
    halves = _half_values(graph)
    for tensor in graph.initializer:
        if tensor.data_type in HALVES:
            tensor.CopyFrom(_widened(tensor, tensor.name))
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type in HALVES:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        nodes += _rewritten(node, halves)
    del graph.node[:]
    graph.node.extend(nodes)
    return copy


def holds_halves(model: onnx.ModelProto) -> bool:
    return any(tensor.data_type in HALVES for tensor in model.graph.initializer)


def _half_values(graph: onnx.GraphProto) -> dict[str, int]:
    """Names of the values in half precision, and which."""
    found = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for value in (*graph.input, *graph.output, *graph.value_info):
        found[value.name] = value.type.tensor_type.elem_type
    return {name: kind for name, kind in found.items() if kind in HALVES}


def _rewritten(node: onnx.NodeProto, halves: dict[str, int]) -> list[onnx.NodeProto]:
    """The node in float32, and for each of its half outputs a rounding."""
    for attribute in node.attribute:
        if attribute.t.data_type in HALVES:
            attribute.t.CopyFrom(_widened(attribute.t, attribute.t.name))
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i in HALVES:
            attribute.i = TensorProto.FLOAT
    following: list[onnx.NodeProto] = []
    if node.op_type not in EXACT:
        for index, name in enumerate(node.output):
            if name in halves:
                node.output[index] = f"{name}.exact"
                following += _rounding(name, halves[name])
    return [node, *following]


def _rounding(name: str, kind: int) -> list[onnx.NodeProto]:
    return [
        onnx.helper.make_node("Cast", [f"{name}.exact"], [f"{name}.half"], to=kind),
        onnx.helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT),
    ]


def _widened(tensor: onnx.TensorProto, name: str) -> onnx.TensorProto:
    return numpy_helper.from_array(numpy_helper.to_array(tensor).astype("float32"), name)


def _has_graph(node: onnx.NodeProto) -> bool:
    return any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute)
