"""A runtime for OpenVINO models (an .xml, with its weights in a .bin beside it), srkd's own and foreign ones, and for
srkd's ONNX files, those in int8 too: OpenVINO computes with integers between their Q/DQ pairs. And one for a network of
srkd without a file, which OpenVINO traces."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compressor.base.context import QUIET, Context
from compressor.base.errors import SrkdError, UsageError, one_line
from compressor.base.metadata import srkd_keys
from compressor.runtimes.base import Runtime, read_header
from compressor.runtimes.file_runtime import FileRuntime, ImageFormat, image_format, require_one_image
from compressor.runtimes.onnx_file import load_onnx, read_facts
from compressor.runtimes.table import DEFAULTS, ExecutedNode, OpenOptions
from compressor.runtimes.torch_runtime import TorchRuntime

PRECISIONS: Mapping[str, tuple[str, str]] = {"fp32": ("f32", "FP32"), "bf16": ("bf16", "BF16"), "fp16": ("f16", "FP16")}
"""OpenVINO's name of a precision as a hint, and as a device capability."""

CONVERSIONS = frozenset({"FakeQuantize", "Convert", "Quantize"})
MOVES = frozenset(
    {
        *("Broadcast", "Concatenation", "Const", "DepthToSpace", "Gather", "Input", "MemoryInput", "MemoryOutput"),
        *("Output", "Pad", "Reorder", "Reshape", "Result", "ShapeOf", "SpaceToDepth", "Split", "StridedSlice"),
        *("Subgraph_shape", "Tile", "Transpose"),
    }
)
"""Operators of an executed graph that only move values."""

NOT_NAMED = CONVERSIONS | {"Constant", "QuantizeLinear", "DequantizeLinear"}
"""Operators that do not name an executed node: the graph lists them first, but the node computes another one."""

HEAD_BYTES = 4096
DTYPES = {"f32": torch.float32, "u8": torch.uint8}


@cache
def openvino_core() -> Any:
    """Return the one Core of this process, which never ends.

    On a processor with AMX each one sets an alternate stack for signals, and at its end puts back the one it found. Of
    two that end in the order in which they began, the second puts back memory that is gone: Ctrl-C then is a
    segmentation fault (OpenVINO 2026.4).
    """
    import openvino

    return openvino.Core()


def read_metadata(path: Path) -> Mapping[str, str]:
    return _read_metadata(_read_model(path), path)


def executed_nodes(path: Path) -> Iterator[ExecutedNode]:
    """Yield the nodes that compute, and the conversions, of the graph that OpenVINO executes on this processor."""
    core = openvino_core()
    model = core.read_model(path)
    if _is_onnx(path):  # whose own names say more than those of what OpenVINO makes of a DequantizeLinear
        operators = {node.name: node.op_type for node in load_onnx(path).graph.node}
    else:
        operators = {node.get_friendly_name(): node.get_type_name() for node in model.get_ops()}
    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1}
    for node in core.compile_model(model, "CPU", settings).get_runtime_model().get_ordered_ops():
        facts = {key: str(node.rt_info[key].astype(str)) for key in ("layerType", "runtimePrecision")}
        names = str(node.rt_info["originalLayersNames"].astype(str)).split(",")
        if facts["layerType"] in CONVERSIONS:
            yield "conversion", facts["layerType"]
        elif facts["layerType"] not in MOVES:
            operator_names = (operators[name] for name in names if operators.get(name, "Constant") not in NOT_NAMED)
            integer = facts["runtimePrecision"] in ("i8", "u8")
            yield "int8" if integer else "float", next(operator_names, facts["layerType"])


class OpenVinoRuntime(FileRuntime):
    """A model that is compiled once, for latency.

    By default OpenVINO computes in bf16 if the processor can: here fp32 is fp32, and half precision is explicit. A
    quantised file computes in int8, and its other parts in fp32.
    """

    name = "openvino"

    def __init__(self, path: Path, options: OpenOptions = DEFAULTS, context: Context = QUIET) -> None:
        super().__init__(path, options)
        core = openvino_core()
        kind, _, rest = options.device.partition(":")
        target = (rest.upper() or "CPU") if kind == "openvino" else options.device.upper().replace(":", ".")
        if target not in core.available_devices:
            choices = ", ".join(["cpu", *(f"openvino:{name}" for name in core.available_devices if name != "CPU")])
            raise UsageError(f"device {options.device!r}: OpenVINO runs on {choices} here")
        self.device = target.lower().replace(".", ":")
        model = _read_model(path)
        if any(node.get_type_name() == "FakeQuantize" for node in model.get_ops()):
            self.precision = "int8"
            if options.precision not in (None, "int8"):
                raise UsageError(f"{path} computes in int8, not {options.precision}: export it in that")
        else:
            self.precision = options.precision or "fp32"
            if self.precision not in PRECISIONS:
                names = ", ".join(PRECISIONS)
                raise UsageError(f"precision {self.precision!r} is not one of {names} (runtime openvino)")
            words = core.get_property(target, "OPTIMIZATION_CAPABILITIES")
            # A processor without the precision of the hint silently computes in fp32.
            if self.precision != "fp32" and PRECISIONS[self.precision][1] not in words:
                available = ", ".join(n for n, (_, word) in PRECISIONS.items() if n == "fp32" or word in words)
                raise UsageError(f"precision {self.precision}: OpenVINO has {available} on this {target}")
        with one_line(f"{path} cannot be compiled by OpenVINO for {target}"):
            settings = _cpu_settings(self.precision, self.threads)
            if target != "CPU":
                settings = {name: settings[name] for name in ("INFERENCE_PRECISION_HINT", "PERFORMANCE_HINT")}
            self._compiled = core.compile_model(model, target, settings)
        self._take(_image_format(model, self.label), _read_metadata(model, path))

    def _run(self, lr: torch.Tensor) -> torch.Tensor:
        with one_line(f"{self.label}: OpenVINO failed on {tuple(lr.shape)}"):
            # A copy: OpenVINO returns its own memory, which the next run overwrites.
            return self._image.run_arrays(lr, lambda images: np.array(self._compiled(images)[0]))


def _cpu_settings(precision: str, threads: int) -> dict[str, Any]:
    return {
        "INFERENCE_PRECISION_HINT": PRECISIONS.get(precision, PRECISIONS["fp32"])[0],
        "PERFORMANCE_HINT": "LATENCY",
        # Pinned threads would share their cores with those of any other process that pins its own.
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,
    }


open_file = OpenVinoRuntime


def traced(opened: TorchRuntime, size: tuple[int, int]) -> Any:
    """Return OpenVINO's model of a network for images of any size, traced at a height and width."""
    example = torch.rand(1, opened.descriptor.channels, *size)
    with warnings.catch_warnings(), torch.no_grad(), one_line(f"{opened.label}: OpenVINO has not all of it"):
        import openvino

        warnings.simplefilter("ignore")  # each Python number that tracing keeps
        # OpenVINO's own trace runs the network twice more and compares, for which it imports most of torch.
        program = torch.jit.trace(opened.network, example, check_trace=False)  # type: ignore[no-untyped-call]
        return openvino.convert_model(program, example_input=example)


class OpenVinoNetwork(Runtime):
    """The network of `opened`, whose trace is `model`, compiled for the CPU in a precision."""

    name = "openvino"

    def __init__(self, opened: TorchRuntime, precision: str, model: Any) -> None:
        self.label, self.descriptor, self.precision = opened.label, opened.descriptor, precision
        self.metadata, self.spec = opened.metadata, opened.spec
        settings = _cpu_settings(precision, torch.get_num_threads())
        with one_line(f"{opened.label}: OpenVINO does not compile it"):
            self._compiled = openvino_core().compile_model(model, "CPU", settings)

    def _run(self, lr: torch.Tensor) -> torch.Tensor:
        # A copy: the next run overwrites the memory that OpenVINO returns.
        return torch.from_numpy(np.array(self._compiled(lr.contiguous().numpy())[0]))


def _read_model(path: Path) -> Any:
    """Return a model; one line for any other file, on which OpenVINO would try all its readers, which print."""
    if _is_onnx(path):
        if "srkd.spec" not in read_facts(path)[1]:
            raise SrkdError(f"{path} is not of srkd: runtime openvino takes the ONNX files of others as .xml, from ovc")
    else:
        if b"<net" not in read_header(path, HEAD_BYTES):
            raise SrkdError(f"{path} is not an OpenVINO model: no <net> at its beginning")
        weights = path.with_suffix(".bin")
        if not weights.is_file():
            raise SrkdError(
                f"{path} keeps its weights in {weights.name}, which is not beside it: put both in one folder"
            )
    with one_line(f"{path} is not a model OpenVINO can open"):
        return openvino_core().read_model(path)


def _image_format(model: Any, label: str) -> ImageFormat:
    require_one_image(label, len(model.inputs), len(model.outputs))
    source, output = model.inputs[0], model.outputs[0]
    kinds = [source.element_type.get_type_name(), output.element_type.get_type_name()]
    if kinds[0] != kinds[1] or kinds[0] not in DTYPES:
        raise SrkdError(f"{label} takes {kinds[0]} and returns {kinds[1]}: expected float32 in [0,1] or bytes")
    shape = source.partial_shape
    sizes = [None if size.is_dynamic else size.get_length() for size in shape] if shape.rank.is_static else []
    return image_format(label, sizes, DTYPES[kinds[0]], channels_last=kinds[0] == "u8", shape=shape)


def _is_onnx(path: Path) -> bool:
    return path.suffix.lower() == ".onnx"


def _read_metadata(model: Any, path: Path) -> Mapping[str, str]:
    """The `srkd.*` keys of the ONNX file, or in the model's `rt_info`."""
    if _is_onnx(path):
        return read_facts(path)[1]
    return {key: str(value.value) for key, value in srkd_keys(model.get_rt_info()).items()}
