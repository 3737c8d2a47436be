"""Parameters and MACs of a foreign ONNX file, from the shapes of its graph."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import onnx

from compressor.models.networks.image_cost import Cost
from export.graph.onnx_graph import for_one_size

Shape = tuple[int, ...]


def onnx_cost(path: Path, lr_size: tuple[int, int]) -> Cost | None:
    """The number of weights and multiplications of convolutions and matrix products, for one image of W × H.

    Constants outside such nodes (a mean shift) are not parameters, as for our own networks. Return None if a shape is
    known only when the graph runs.
    """
    model = onnx.load_model(str(path), load_external_data=False)
    weights = {tensor.name: math.prod(tensor.dims) for tensor in model.graph.initializer}
    stored = (node for node in model.graph.node if node.op_type == "DequantizeLinear" and node.input[0] in weights)
    weights |= {node.output[0]: weights[node.input[0]] for node in stored}
    try:
        shapes = _shapes(model, lr_size)
        counts = [_macs(node, shapes) for node in model.graph.node]
    except (KeyError, onnx.shape_inference.InferenceError):
        return None
    counted: dict[str, int] = {}
    for node, count in zip(model.graph.node, counts, strict=True):
        if count or node.op_type == "PRelu":
            counted |= {name: weights[name] for name in node.input[1:] if name in weights}
    return Cost(sum(counted.values()), sum(counts), sum(counts), lr_size)


def _shapes(model: onnx.ModelProto, lr_size: tuple[int, int]) -> dict[str, Shape]:
    """The shape of every tensor for one image of this size."""
    inferred = for_one_size(model, lr_size).graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in inferred.initializer}
    for value in (*inferred.input, *inferred.output, *inferred.value_info):
        dims = value.type.tensor_type.shape.dim
        if dims and all(dim.HasField("dim_value") for dim in dims):
            shapes[value.name] = tuple(dim.dim_value for dim in dims)
    return shapes


def _macs(node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> int:
    """The multiplications of a node; 0 for operators that do not multiply and add."""
    if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
        return 0
    image, weight, output = shapes[node.input[0]], shapes[node.input[1]], shapes[node.output[0]]
    if node.op_type == "Conv":
        return math.prod(output) * math.prod(weight[1:])
    if node.op_type == "ConvTranspose":
        return math.prod(image) * math.prod(weight[1:])
    return math.prod(output) * image[-1]
