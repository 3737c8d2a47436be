"""The pixel shuffle as some accelerators know it: DepthToSpace in mode DCR instead of torch's CRD.

Where the convolution before it can take the new order, its weights and bias do, at no cost; where it cannot (grouped
convolutions keep their channels apart), the channels are gathered.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from compressor.base.errors import SrkdError

ORDER_PRESERVING = ("Relu", "LeakyRelu", "Sigmoid", "Tanh", "Clip", "Cast", "Identity")
"""Operators that do the same to every channel, so that an order of channels passes through them."""


def use_depth_first(model: onnx.ModelProto) -> None:
    """Turn every DepthToSpace in CRD into one in DCR with the same result."""
    graph = model.graph
    for node in list(graph.node):
        if node.op_type != "DepthToSpace" or _attribute(node, "mode", b"DCR") == b"DCR":
            continue
        block = int(_attribute(node, "blocksize", 0))
        conv = _source(graph, node)
        channels = None if conv is None else _output_channels(graph, conv)
        if conv is not None and channels is not None and int(_attribute(conv, "group", 1)) == 1:
            _permute(graph, conv, new_order(channels, block))
        else:
            _gather(graph, node, block)
        next(entry for entry in node.attribute if entry.name == "mode").s = b"DCR"


def new_order(channels: int, block: int) -> NDArray[np.int64]:
    """Return the CRD channel for each DCR position: (offset, channel) holds what was at (channel, offset)."""
    order: NDArray[np.int64] = np.arange(channels, dtype=np.int64).reshape(-1, block**2).transpose()
    return order.flatten()


def _source(graph: onnx.GraphProto, node: onnx.NodeProto) -> onnx.NodeProto | None:
    """Return the convolution whose channels arrive at `node` unchanged, and only there; None where there is none."""
    by_output = {name: other for other in graph.node for name in other.output}
    name = node.input[0]
    while sum(name in other.input for other in graph.node) == 1:
        source = by_output.get(name)
        if source is None or source.op_type == "Conv":
            return source
        if source.op_type not in ORDER_PRESERVING:
            return None
        name = source.input[0]
    return None


def _output_channels(graph: onnx.GraphProto, conv: onnx.NodeProto) -> int | None:
    """Return the output channels where weight and bias are stored and used by this convolution only, else None."""
    sizes = {tensor.name: tensor.dims for tensor in graph.initializer}
    unshared = all(sum(name in other.input for other in graph.node) == 1 for name in conv.input[1:])
    if not unshared or any(name not in sizes for name in conv.input[1:]):
        return None
    return int(sizes[conv.input[1]][0])


def _permute(graph: onnx.GraphProto, conv: onnx.NodeProto, order: NDArray[np.int64]) -> None:
    for tensor in graph.initializer:
        if tensor.name in conv.input[1:]:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor)[order], tensor.name))
    # Values between are no longer those of torch's program: they get other names.
    name = conv.output[0]
    while (follower := next((node for node in graph.node if name in node.input), None)) is not None:
        for node in graph.node:
            node.input[:] = [f"{name}.dcr" if source == name else source for source in node.input]
            node.output[:] = [f"{name}.dcr" if output == name else output for output in node.output]
        for value in graph.value_info:
            value.name = f"{name}.dcr" if value.name == name else value.name
        if follower.op_type == "DepthToSpace":
            return
        name = follower.output[0]


def _gather(graph: onnx.GraphProto, node: onnx.NodeProto, block: int) -> None:
    name = node.input[0]
    shapes = onnx.shape_inference.infer_shapes(onnx.helper.make_model(graph)).graph.value_info
    channels = next((v.type.tensor_type.shape.dim[1].dim_value for v in shapes if v.name == name), 0)
    if not channels:
        raise SrkdError(f"{node.name}: the number of its input channels is not known, so --shuffle dcr is not possible")
    graph.initializer.append(numpy_helper.from_array(new_order(channels, block), f"{name}.order"))
    gather = helper.make_node("Gather", [name, f"{name}.order"], [f"{name}.dcr"], name=f"{node.name}.order", axis=1)
    graph.node.insert(list(graph.node).index(node), gather)
    node.input[0] = f"{name}.dcr"


def _attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    return next((helper.get_attribute_value(entry) for entry in node.attribute if entry.name == name), default)
