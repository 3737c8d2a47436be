"""Bytes in and out: N,H,W,C in 0..255, as a camera gives and a screen takes them. An app needs no image code then."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.onnx_graph import INPUT, OUTPUT

TO_NCHW, TO_NHWC = (0, 3, 1, 2), (0, 2, 3, 1)


def take_and_give_bytes(model: onnx.ModelProto, channels: int) -> None:
    """Put the range, the order of axes, the clamp and the rounding inside; `lr` and `sr` stay the names outside."""
    graph = model.graph
    inside, outside = f"{INPUT}.float", f"{OUTPUT}.float"
    for node in graph.node:
        node.input[:] = [inside if name == INPUT else name for name in node.input]
        node.output[:] = [outside if name == OUTPUT else name for name in node.output]
    constants = {"bytes.range": 255.0, "bytes.lowest": 0.0, "bytes.highest": 255.0}
    graph.initializer.extend(
        numpy_helper.from_array(np.array(value, np.float32), name) for name, value in constants.items()
    )
    before = [
        _node("Cast", INPUT, "lr.levels", to=TensorProto.FLOAT),
        _node("Transpose", "lr.levels", "lr.planes", perm=TO_NCHW),
        _node("Div", "lr.planes", inside, "bytes.range"),
    ]
    after = [
        _node("Mul", outside, "sr.range", "bytes.range"),
        _node("Clip", "sr.range", "sr.clipped", "bytes.lowest", "bytes.highest"),
        _node("Round", "sr.clipped", "sr.levels"),
        _node("Cast", "sr.levels", "sr.planes", to=TensorProto.UINT8),
        _node("Transpose", "sr.planes", OUTPUT, perm=TO_NHWC),
    ]
    nodes = [*before, *graph.node, *after]
    del graph.node[:]
    graph.node.extend(nodes)
    for value in (graph.input[0], graph.output[0]):
        n, _, h, w = (dim.dim_param or dim.dim_value or None for dim in value.type.tensor_type.shape.dim)
        value.CopyFrom(helper.make_tensor_value_info(value.name, TensorProto.UINT8, [n, h, w, channels]))


def _node(kind: str, given: str, taken: str, *constants: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, [given, *constants], [taken], name=f"bytes/{taken}", **attributes)
