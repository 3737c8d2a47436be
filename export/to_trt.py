"""TensorRT engines: an ONNX file in the engine's precision, and what TensorRT builds from it on this machine.

The ONNX file stays beside the engine, so that another GPU, driver or version of TensorRT can have its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from compressor.models.networks.base import Network
from compressor.runtimes.base import Runtime
from compressor.runtimes.tensorrt.cuda import open_cuda
from compressor.runtimes.tensorrt.engines import build_engine, machine_here, machine_tag
from compressor.runtimes.tensorrt.library import tensorrt
from compressor.runtimes.tensorrt.shapes import Shapes, dynamic_shapes, static_shapes
from compressor.runtimes.tensorrt.trtexec import trtexec_command
from compressor.runtimes.tensorrt_runtime import TensorRTRuntime
from export.conversion import Choices, Conversion
from export.formats import FORMATS
from export.to_onnx import INPUT

SOURCES = {"fp32": "onnx", "tf32": "onnx", "fp16": "fp16", "bf16": "bf16"}
"""Precision of an engine → the format that it is built from."""


def convert(job: Conversion) -> Mapping[str, object]:
    """Write the ONNX file and, in a process that may crash, the engine."""
    trt, cuda = tensorrt(), open_cuda()
    source = FORMATS[SOURCES[job.precision]]
    stem = job.path.name.removesuffix(f".{job.precision}.{machine_tag(machine_here(trt, cuda))}.engine")
    onnx = job.path.with_name(f"{stem}{source.suffix}")
    plain = replace(job, path=onnx, choices=replace(job.choices, sizes=None), precision=source.precision)
    source.load().convert(plain)
    shapes = _shapes(job.network, job.choices)
    facts = build_engine(onnx, job.path, job.precision, shapes, trt, cuda, job.progress)
    return {**facts, "built_from": onnx.name}


def open_runtime(path: Path) -> Runtime:
    return TensorRTRuntime(path)


def machine() -> str:
    """trt11.4.0.106-h200-sm90"""
    return machine_tag(machine_here(tensorrt(), open_cuda()))


def advice(written: Mapping[str, Path], network: Network, choices: Choices) -> str:
    """What TensorRT reads was written; the command is for the smallest of it."""
    names = ", ".join(str(path) for path in written.values())
    name = next(name for name in ("fp16", "bf16", "onnx") if name in written)
    onnx, precision = written[name], FORMATS[name].precision
    engine = f"{onnx.name.removesuffix(FORMATS[name].suffix)}.{precision}.engine"
    command = trtexec_command(onnx.name, engine, INPUT, _shapes(network, choices), precision)
    return f"wrote {names}, which TensorRT reads; on the machine with the GPU: {command}"


def _shapes(network: Network, choices: Choices) -> Shapes:
    model = network.descriptor
    if choices.lr_size is not None:
        return static_shapes(model.channels, choices.lr_size)
    return dynamic_shapes(model.channels, model.min_size, model.size_multiple, choices.sizes)
