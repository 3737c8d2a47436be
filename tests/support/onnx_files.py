"""Foreign ONNX files, and changes to srkd's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, numpy_helper


def model_of(text: str, ir_version: int = 9, **weights: np.ndarray) -> onnx.ModelProto:
    """Return a model from a graph in ONNX's text, with these initializers."""
    model: onnx.ModelProto = onnx.parser.parse_model(f'<ir_version: {ir_version}, opset_import: ["" : 18]> {text}')
    model.graph.initializer.extend(numpy_helper.from_array(values, name) for name, values in weights.items())
    return model


def enlarger(
    path: Path, *, scale: int = 4, kind: int = TensorProto.FLOAT, outside: bool = False, int8: bool = False
) -> Path:
    """Write an ONNX file that enlarges by repeating pixels, or one for bytes, as another tool might have done it."""
    mix = np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1)
    weights = {"weights8": mix.astype(np.int8), "one": np.array(1, np.float32)} if int8 else {"weights": mix}
    read = "weights = DequantizeLinear(weights8, one)" if int8 else ""
    model = model_of(
        f"""enlarger (float[n, 3, h, w] image) => (float[n, 3, H, W] out) {{
            {read}
            mixed = Conv(image, weights)
            out = Resize <mode = "nearest"> (mixed, , factors)
        }}""",
        factors=np.array([1, 1, scale, scale], np.float32),
        **weights,
    )
    if kind == TensorProto.UINT8:
        model = model_of("enlarger (uint8[n, h, w, 3] image) => (uint8[n, h, w, 3] out) { out = Identity(image) }")
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
