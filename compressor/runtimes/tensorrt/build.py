"""Building of TensorRT's executable (the plan) from an ONNX file, here or with NVIDIA's own command.

A build takes minutes and may crash: `engines.py` runs `build_plan` in a child process.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from compressor.base.errors import SrkdError
from compressor.base.files import atomic_path
from compressor.runtimes.tensorrt.installation import BuilderLog, has_precision_flags
from compressor.runtimes.tensorrt.profiles import OptimizationProfile

FLAGS_10 = {"fp16": "FP16", "bf16": "BF16", "int8": "INT8"}
"""The builder flag of TensorRT 10.x by precision. From 11.0 on the ONNX file alone decides."""


def build_plan(trt: Any, source: Path, plan: Path, precision: str, profile: OptimizationProfile) -> dict[str, object]:
    log = BuilderLog(trt)
    builder = trt.Builder(log.logger)
    network = builder.create_network(network_flags(trt))
    parser = trt.OnnxParser(network, log.logger)
    if not parser.parse(source.read_bytes(), str(source)):
        reason = "it gave no reason"
        if parser.num_errors:
            error = parser.get_error(0)
            reason = f"{error.desc()} (node {error.node_name()!r}, {error.node_operator()})"
        raise SrkdError(f"TensorRT cannot read {source.name}: {reason[:300]}")
    config = builder.create_builder_config()
    set_precision(trt, config, precision)
    sizes = builder.create_optimization_profile()
    sizes.set_shape(network.get_input(0).name, *profile.shapes)
    if config.add_optimization_profile(sizes) < 0:
        raise SrkdError(f"TensorRT does not take the sizes {profile}")
    content = builder.build_serialized_network(network, config)
    if content is None:
        raise SrkdError(f"TensorRT cannot build {source.name}: {log.reason()}")
    with atomic_path(plan) as temporary:
        temporary.write_bytes(bytes(content))
    typed_by = "builder flags" if has_precision_flags(trt) else "the ONNX file"
    return {"tensorrt": str(trt.__version__), "typed_by": typed_by}


def network_flags(trt: Any) -> int:
    """The flags of a network: strongly typed if the builder has no precision flags."""
    return 0 if has_precision_flags(trt) else 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)


def set_precision(trt: Any, config: Any, precision: str) -> None:
    """Allow the builder this precision, where that is a flag."""
    if has_precision_flags(trt):
        config.set_flag(getattr(trt.BuilderFlag, FLAGS_10[precision]))


def trtexec_command(onnx: str, engine: str, input: str, profile: OptimizationProfile) -> str:
    """The same build as a shell command, for a machine with TensorRT and without srkd.

    --stronglyTyped makes 10.x use the precision of the ONNX file; 11.x always does.
    """
    words = ["trtexec", f"--onnx={onnx}", "--stronglyTyped"]
    if profile.fixed_size is None:
        for name, shape in zip(("min", "opt", "max"), profile.shapes, strict=True):
            words.append(f"--{name}Shapes={input}:{'x'.join(map(str, shape))}")
    return " ".join(shlex.quote(word) for word in [*words, f"--saveEngine={engine}"])
