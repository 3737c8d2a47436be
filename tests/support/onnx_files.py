"""Foreign ONNX files, and changes to srkd's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper


def enlarger(
    path: Path, *, scale: int = 4, kind: int = TensorProto.FLOAT, outside: bool = False, int8: bool = False
) -> Path:
    """Write an ONNX file that enlarges by repeating pixels, as another tool might have written it."""
    layout = ["n", 3, "h", "w"] if kind == TensorProto.FLOAT else ["n", "h", "w", 3]
    weights = np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1)
    factors = helper.make_tensor("factors", TensorProto.FLOAT, [4], [1.0, 1.0, scale, scale])
    nodes = [helper.make_node("Resize", ["mixed", "", "factors"], ["out"], mode="nearest")]
    initializers = [factors]
    if int8:
        initializers += [
            onnx.numpy_helper.from_array(weights.astype(np.int8), "weights8"),
            helper.make_tensor("one", TensorProto.FLOAT, [], [1.0]),
        ]
        nodes.insert(0, helper.make_node("DequantizeLinear", ["weights8", "one"], ["weights"]))
    else:
        initializers.append(onnx.numpy_helper.from_array(weights, "weights"))
    nodes.insert(len(nodes) - 1, helper.make_node("Conv", ["image", "weights"], ["mixed"]))
    if kind != TensorProto.FLOAT:
        nodes = [helper.make_node("Identity", ["image"], ["out"])]
    graph = helper.make_graph(
        nodes,
        "enlarger",
        [helper.make_tensor_value_info("image", kind, layout)],
        [helper.make_tensor_value_info("out", kind, ["n", 3, "H", "W"] if kind == TensorProto.FLOAT else layout)],
        initializers if kind == TensorProto.FLOAT else [],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save_model(model, str(path), save_as_external_data=outside, location=f"{path.stem}.data", size_threshold=0)
    return path


def scaled(name: str, factor: float) -> Callable[[onnx.ModelProto], None]:
    """Return a change of a model that multiplies the weight `name`."""

    def change(model: onnx.ModelProto) -> None:
        for tensor in model.graph.initializer:
            if tensor.name == name:
                values = numpy_helper.to_array(tensor) * np.float32(factor)
                tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
                return
        raise AssertionError(f"{name} is not in {[tensor.name for tensor in model.graph.initializer]}")

    return change


def run_graph(model: onnx.ModelProto, lr: torch.Tensor, *, exactly: bool = False) -> np.ndarray:
    """Run a graph of one input and one output; `exactly`: node by node, without ONNX Runtime's fusions."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    if exactly:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (sr,) = session.run(None, {model.graph.input[0].name: lr.numpy()})
    return np.asarray(sr)
