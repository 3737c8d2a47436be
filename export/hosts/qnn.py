"""Qualcomm's NPUs (HTP) through QNN: ONNX of one size with every node quantised, values in 8 and in 16 bits.

Read in onnxruntime/onnxruntime-qnn at QNN-ExecutionProvider.md (no dynamic shapes; the operators; uint8 and uint16
values, quantisation to sixteen bits in the domain com.microsoft below opset 21) and in ONNX Runtime at
onnxruntime/python/tools/quantization/execution_providers/qnn/quant_config.py (stored operands are quantised as values
are).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx

from export.hosts.table import Host
from export.int8.quantise.plan import BOUNDS, FUSED

OPERATORS = (
    "Add AveragePool Clip Concat Conv DepthToSpace Div Flatten Gelu GlobalAveragePool LeakyRelu Max MaxPool Min Mul "
    "PRelu Pad ReduceMean Relu Reshape Resize Sigmoid Slice SpaceToDepth Split Sqrt Squeeze Sub Tanh Transpose "
    "Unsqueeze"
)
"""The operators of srkd's networks among those of the list."""
PAIR = ("QuantizeLinear", "DequantizeLinear")


def refusals(host: Host, path: Path) -> Iterator[str]:
    return qnn_refusals(onnx.load_model(str(path)))


def qnn_refusals(model: onnx.ModelProto) -> Iterator[str]:
    """Yield in one line each what of a model QNN's NPU would leave to the CPU, or compute in float."""
    integers = {tensor.name for tensor in model.graph.initializer if tensor.data_type != onnx.TensorProto.FLOAT}
    makers = {name: node.op_type for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        if node.op_type in PAIR:
            continue
        if node.op_type not in OPERATORS.split():
            yield f"it has no {node.op_type}"
        operands = node.input[:1] if node.op_type in BOUNDS else node.input
        loose = [name for name in operands if name and name not in integers and makers.get(name) != "DequantizeLinear"]
        if loose and not (node.op_type in FUSED and makers.get(loose[0]) not in PAIR):
            yield f"{node.name} ({node.op_type}) reads {loose[0]}, which is not quantised"
