"""What an ONNX file says that a build depends on: its input, and the precision that lies in it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from compressor.base.errors import SrkdError

if TYPE_CHECKING:
    import onnx


QUANTIZE = ("QuantizeLinear", "DequantizeLinear")


@dataclass(frozen=True)
class OnnxFacts:
    """`shape` is that of the only input, N,C,H,W, None where a side is free."""

    input: str
    shape: tuple[int | None, ...]
    precision: str
    metadata: dict[str, str]


def onnx_facts(path: Path) -> OnnxFacts:
    """Read without running it; one line where TensorRT would have no use for it."""
    import onnx

    if not path.is_file():
        raise SrkdError(f"{path}: no such file")
    try:
        model = onnx.load_model(str(path))
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise SrkdError(f"{path} is not an ONNX file: {reason[:200]}") from error
    inputs = [value for value in model.graph.input if value.name not in {item.name for item in model.graph.initializer}]
    if len(inputs) != 1:
        raise SrkdError(f"{path} has {len(inputs)} inputs: a super-resolution model has one")
    tensor = inputs[0].type.tensor_type
    if tensor.elem_type != onnx.TensorProto.FLOAT:
        kind = onnx.TensorProto.DataType.Name(tensor.elem_type)
        raise SrkdError(f"{path} takes {kind}: an engine here takes float images (export without --io uint8)")
    shape = tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim)
    if len(shape) != 4 or shape[1] is None:
        raise SrkdError(f"{path} takes {inputs[0].name} of shape {list(shape)}: expected N,C,H,W with C given")
    metadata = {prop.key: prop.value for prop in model.metadata_props if prop.key.startswith("srkd.")}
    return OnnxFacts(inputs[0].name, shape, _precision(model, path), metadata)


def _precision(model: onnx.ModelProto, path: Path) -> str:
    """int8 where it is quantized explicitly, else what most weights are stored in."""
    if any(node.op_type in QUANTIZE for node in model.graph.node):
        _require_symmetric(model, path)
        return "int8"
    import onnx

    names: dict[int, str] = {onnx.TensorProto.FLOAT16: "fp16", onnx.TensorProto.BFLOAT16: "bf16"}
    sizes: Counter[str] = Counter()
    for tensor in model.graph.initializer:
        if len(tensor.dims) > 1:
            count = 1
            for dim in tensor.dims:
                count *= dim
            sizes[names.get(tensor.data_type, "fp32")] += count
    return sizes.most_common(1)[0][0] if sizes else "fp32"


def _require_symmetric(model: onnx.ModelProto, path: Path) -> None:
    """TensorRT takes signed bytes around zero only, and says so late and darkly."""
    import onnx
    from onnx import numpy_helper

    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            constants[node.output[0]] = node.attribute[0].t
    for node in model.graph.node:
        if node.op_type not in QUANTIZE or len(node.input) < 3 or not node.input[2]:
            continue
        zero = constants.get(node.input[2])
        if zero is None or zero.data_type != onnx.TensorProto.INT8 or numpy_helper.to_array(zero).any():
            raise SrkdError(
                f"{path}: {node.op_type} {node.name!r} is not symmetric int8 (a zero point other than 0, or unsigned): "
                "TensorRT takes s8/s8 around zero only; quantize it so"
            )
