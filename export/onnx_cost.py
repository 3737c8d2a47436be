"""Parameters and MACs of an ONNX file that does not say which network it is, from the shapes of its graph."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import onnx

from compressor.cost import Cost
from compressor.errors import SrkdError

Shape = tuple[int, ...]


def onnx_cost(path: Path, lr_size: tuple[int, int]) -> Cost:
    """For one image of W × H: weights of convolutions and products, and the products themselves.

    Constants outside such nodes (mean shifts, slopes of a PReLU apart) are not parameters, as for our own networks.
    """
    model = onnx.load_model(str(path), load_external_data=False)
    shapes = _shapes(model, lr_size)
    weights = {tensor.name: math.prod(tensor.dims) for tensor in model.graph.initializer}
    macs, used = 0, dict[str, int]()
    for node in model.graph.node:
        count = _macs(node, shapes, path)
        macs += count
        if count or node.op_type == "PRelu":
            used |= {name: weights[name] for name in node.input[1:] if name in weights}
    return Cost(sum(used.values()), macs, macs, lr_size)


def _shapes(model: onnx.ModelProto, lr_size: tuple[int, int]) -> dict[str, Shape]:
    """The shape of every tensor when the input is one image of this size."""
    sizes = model.graph.input[0].type.tensor_type.shape.dim
    for dim, size in zip(sizes, (1, sizes[1].dim_value, lr_size[1], lr_size[0]), strict=True):
        dim.Clear()
        dim.dim_value = size
    # What was written for free sizes would be believed instead of inferred again.
    del model.graph.value_info[:]
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in inferred.initializer}
    for value in (*inferred.input, *inferred.output, *inferred.value_info):
        dims = value.type.tensor_type.shape.dim
        if dims and all(dim.HasField("dim_value") for dim in dims):
            shapes[value.name] = tuple(dim.dim_value for dim in dims)
    return shapes


def _macs(node: onnx.NodeProto, shapes: Mapping[str, Shape], path: Path) -> int:
    """Of a node that multiplies and adds; 0 for others."""
    if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
        return 0
    try:
        given, weight, taken = shapes[node.input[0]], shapes[node.input[1]], shapes[node.output[0]]
    except KeyError as error:
        raise SrkdError(f"{path}: the shape of {error} at {node.op_type} {node.name} cannot be inferred") from error
    if node.op_type == "Conv":
        return math.prod(taken) * math.prod(weight[1:])
    if node.op_type == "ConvTranspose":
        return math.prod(given) * math.prod(weight[1:])
    return math.prod(taken) * given[-1]
