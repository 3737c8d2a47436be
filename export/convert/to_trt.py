"""TensorRT engines: an ONNX file in the engine's precision, and the engine that TensorRT builds from it here.

The ONNX file stays beside the engine, so that an engine for another GPU, driver or version can be built from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from compressor.models.networks.base import Network
from compressor.runtimes.tensorrt.build import trtexec_command
from compressor.runtimes.tensorrt.device import open_device
from compressor.runtimes.tensorrt.engines import build_engine, current_machine, machine_tag
from compressor.runtimes.tensorrt.installation import import_tensorrt
from compressor.runtimes.tensorrt.profiles import OptimizationProfile, dynamic_profile, static_profile
from export.formats.conversion import DEFAULTS, INPUT, Conversion, FileOptions
from export.formats.table import FORMATS


def convert(job: Conversion) -> Mapping[str, object]:
    """Write the ONNX file and, in a child process, the engine."""
    trt, device = import_tensorrt(), open_device()
    (name,) = FORMATS[job.format].substitutes
    source = FORMATS[name]
    precision = FORMATS[job.format].precision
    stem = job.path.name.removesuffix(f".{precision}.{machine_tag(current_machine(trt, device))}.engine")
    onnx = job.path.with_name(f"{stem}{source.suffix}")
    options = replace(job.options, sizes=None)
    source.load().convert(replace(job, path=onnx, options=options, format=source.name))
    profile = _profile(job.network, job.options)
    facts = build_engine(onnx, job.path, precision, profile, trt, device)
    return {**facts, "built_from": onnx.name}


def machine_name() -> str:
    """This machine's name in file names: trt11.4.0.106-h200-sm90."""
    return machine_tag(current_machine(import_tensorrt(), open_device()))


def describe_next_step(written: Mapping[str, Path], network: Network, options: FileOptions) -> str:
    """A line with the file written for TensorRT and the command that builds an engine from it."""
    ((name, path),) = written.items()
    command = build_command(path, name, network, options)
    return f"wrote {path}, which TensorRT reads; on the machine with the GPU: {command}"


def build_command(onnx: Path, name: str, network: Network, options: FileOptions = DEFAULTS) -> str:
    """Return the command that builds an engine from an ONNX file of the format `name`."""
    precision = FORMATS[name].precision
    engine = f"{onnx.name.removesuffix(FORMATS[name].suffix)}.{precision}.engine"
    return trtexec_command(onnx.name, engine, INPUT, _profile(network, options))


def _profile(network: Network, options: FileOptions) -> OptimizationProfile:
    if options.lr_size is not None:
        return static_profile(network.descriptor.channels, options.lr_size)
    return dynamic_profile(network.descriptor, options.sizes)
