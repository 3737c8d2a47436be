"""Building of TensorRT's executable (the plan) from an ONNX file, here or with NVIDIA's own command.

A build takes minutes and may crash: `engines.py` runs `build_plan` in a child process.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from onnx import numpy_helper

from compressor.base.errors import SrkdError
from compressor.base.files import atomic_path
from compressor.runtimes.onnx_file import load_onnx, read_srkd_keys, weight_precision
from compressor.runtimes.tensorrt.installation import BuilderLog, has_precision_flags
from compressor.runtimes.tensorrt.profiles import OptimizationProfile

FLAGS_10 = {"fp16": "FP16", "bf16": "BF16", "int8": "INT8"}
"""The builder flag of TensorRT 10.x by precision. From 11.0 on the ONNX file alone decides."""

QUANTIZE_OPERATORS = ("QuantizeLinear", "DequantizeLinear")


@dataclass(frozen=True)
class OnnxInfo:
    """The facts that a build depends on. `shape` is that of the only input, N,C,H,W, with None for a dynamic side."""

    input: str
    shape: tuple[int | None, ...]
    precision: str
    metadata: dict[str, str]


def read_onnx_info(path: Path) -> OnnxInfo:
    """Return the facts of an ONNX file without running it; one line if TensorRT cannot use it."""
    model = load_onnx(path)
    constants = {item.name for item in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    if len(inputs) != 1:
        raise SrkdError(f"{path} has {len(inputs)} inputs: a super-resolution model has one")
    tensor = inputs[0].type.tensor_type
    if tensor.elem_type != onnx.TensorProto.FLOAT:
        kind = onnx.TensorProto.DataType.Name(tensor.elem_type)
        raise SrkdError(f"{path} takes {kind}: an engine here takes float32 images (export without --io)")
    shape = tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim)
    if len(shape) != 4 or shape[1] is None:
        raise SrkdError(f"{path} takes {inputs[0].name} of shape {list(shape)}: expected N,C,H,W with a fixed C")
    precision = weight_precision(model)
    if any(node.op_type in QUANTIZE_OPERATORS for node in model.graph.node):
        _require_symmetric(model, path)
        precision = "int8"
    return OnnxInfo(inputs[0].name, shape, precision, read_srkd_keys(model))


def _require_symmetric(model: onnx.ModelProto, path: Path) -> None:
    """Refuse all but signed bytes around zero: TensorRT accepts nothing else, and its message is late and unclear."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            constants[node.output[0]] = node.attribute[0].t
    for node in model.graph.node:
        if node.op_type not in QUANTIZE_OPERATORS or len(node.input) < 3 or not node.input[2]:
            continue
        zero = constants.get(node.input[2])
        if zero is None or zero.data_type != onnx.TensorProto.INT8 or numpy_helper.to_array(zero).any():
            raise SrkdError(
                f"{path}: {node.op_type} {node.name!r} is not symmetric int8 (a zero point other than 0, or unsigned): "
                "TensorRT takes s8/s8 around zero only; quantize it so"
            )


def build_plan(trt: Any, source: Path, plan: Path, precision: str, profile: OptimizationProfile) -> dict[str, object]:
    """Write the plan and return facts about the build."""
    info = read_onnx_info(source)
    if info.precision != precision:  # an engine's name must not state a precision that it does not have
        raise SrkdError(f"{source} holds {info.precision}: an engine in {precision} is built from {precision}")
    log = BuilderLog(trt)
    builder = trt.Builder(log.logger)
    network = builder.create_network(network_flags(trt))
    parser = trt.OnnxParser(network, log.logger)
    if not parser.parse(source.read_bytes(), str(source)):
        raise SrkdError(f"TensorRT cannot read {source.name}: {_parser_error(parser)[:300]}")
    config = builder.create_builder_config()
    set_precision(trt, config, precision)
    _add_profile(builder, config, info, profile)
    content = builder.build_serialized_network(network, config)
    if content is None:
        raise SrkdError(f"TensorRT cannot build {source.name}: {log.reason()}")
    with atomic_path(plan) as temporary:
        temporary.write_bytes(bytes(content))
    return {
        "tensorrt": str(trt.__version__),
        "typed_by": "builder flags" if has_precision_flags(trt) else "the ONNX file",
    }


def network_flags(trt: Any) -> int:
    """The flags of a network: strongly typed if the builder has no precision flags."""
    return 0 if has_precision_flags(trt) else 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)


def set_precision(trt: Any, config: Any, precision: str) -> None:
    """Allow the builder this precision, where that is a flag."""
    if has_precision_flags(trt):
        config.set_flag(getattr(trt.BuilderFlag, FLAGS_10[precision]))


def _parser_error(parser: Any) -> str:
    if not parser.num_errors:
        return "it gave no reason"
    error = parser.get_error(0)
    return f"{error.desc()} (node {error.node_name()!r}, {error.node_operator()})"


def _add_profile(builder: Any, config: Any, info: OnnxInfo, profile: OptimizationProfile) -> None:
    for shape in (profile.smallest, profile.largest):
        if any(side is not None and side != other for side, other in zip(info.shape, shape, strict=True)):
            raise SrkdError(f"the ONNX file takes {list(info.shape)}, the engine was to take {list(shape)}")
    trt_profile = builder.create_optimization_profile()
    trt_profile.set_shape(info.input, profile.smallest, profile.tuned, profile.largest)
    if config.add_optimization_profile(trt_profile) < 0:
        raise SrkdError(f"TensorRT does not take the sizes {profile}")


def trtexec_command(onnx: str, engine: str, input: str, profile: OptimizationProfile) -> str:
    """The same build as a shell command, for a machine with TensorRT and without srkd.

    --stronglyTyped makes 10.x use the precision of the ONNX file; 11.x always does.
    """
    words = ["trtexec", f"--onnx={onnx}", "--stronglyTyped"]
    if profile.fixed_size is None:
        for name, shape in zip(("min", "opt", "max"), profile.shapes, strict=True):
            words.append(f"--{name}Shapes={input}:{'x'.join(map(str, shape))}")
    return " ".join(shlex.quote(word) for word in [*words, f"--saveEngine={engine}"])
