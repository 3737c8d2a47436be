"""ONNX Runtime's execution providers: device names, providers, and their options."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from compressor.base.errors import UsageError

CPU = "CPUExecutionProvider"


@dataclass(frozen=True)
class Target:
    """The target of a session: device, precision, threads, version. `part` follows the colon of the device."""

    part: str
    precision: str
    threads: int
    version: tuple[int, ...]
    """The version of ONNX Runtime, as option names change."""


@dataclass(frozen=True)
class Provider:
    """An execution provider, a row of PROVIDERS."""

    name: str
    distribution: str
    """The distribution to install for it, instead of the plain onnxruntime."""
    part: str
    """A regular expression for the text after the colon of the device."""
    default_part: str
    adds: str
    options: Callable[[Target], dict[str, str]]
    fallbacks: tuple[str, ...] = ()
    """Providers for operators that it does not support, in this order; the CPU is always last."""
    memory: Literal["cpu", "cuda"] = "cpu"
    """The memory that holds its images."""

    @property
    def command(self) -> str:
        """The command that installs it. Distributions are builds of the same package: only one can be installed."""
        return f"pip uninstall -y onnxruntime && pip install {self.distribution}"


@dataclass(frozen=True)
class SelectedProviders:
    """The names and options of providers for a session; `device` is the full name: "cuda:0"."""

    names: tuple[str, ...]
    options: tuple[Mapping[str, str], ...]
    device: str
    memory: Literal["cpu", "cuda"]


def _cuda(target: Target) -> dict[str, str]:
    # fp32 means fp32: TF32 is on by default in this provider.
    return {"device_id": target.part, "use_tf32": "0"}


def _tensorrt(target: Target) -> dict[str, str]:
    """TensorRT's options. Engines and timings are cached: building an engine takes minutes."""
    from compressor.base.cache_folder import default_folder

    folder = str(default_folder() / "onnxruntime-tensorrt")
    options = {"device_id": target.part, "trt_fp16_enable": "1" if target.precision == "fp16" else "0"}
    if target.precision == "bf16":
        options["trt_bf16_enable"] = "1"
    options |= {"trt_engine_cache_enable": "1", "trt_engine_cache_path": folder}
    return options | {"trt_timing_cache_enable": "1", "trt_timing_cache_path": folder}


def _openvino(target: Target) -> dict[str, str]:
    """OpenVINO's options, with a hint that prevents a lower precision, its default if available."""
    hint = {"fp16": "f16", "bf16": "bf16"}.get(target.precision, "f32")
    if target.version >= (1, 24):
        kind = target.part.partition(".")[0]
        config: dict[str, str] = {"INFERENCE_PRECISION_HINT": hint}
        if kind == "CPU":
            config["INFERENCE_NUM_THREADS"] = str(target.threads)
        return {"device_type": target.part, "load_config": json.dumps({kind: config})}
    precision = "FP32" if hint == "f32" else "ACCURACY"
    return {"device_type": target.part, "precision": precision, "num_of_threads": str(target.threads)}


PROVIDERS: Mapping[str, Provider] = {
    "cpu": Provider(CPU, "onnxruntime", "", "", "ONNX files on the processor", lambda target: {}),
    "cuda": Provider(
        "CUDAExecutionProvider", "onnxruntime-gpu", r"\d+", "0", "ONNX files on an NVIDIA GPU", _cuda, memory="cuda"
    ),
    "tensorrt": Provider(
        "TensorrtExecutionProvider",
        "onnxruntime-gpu tensorrt",
        r"\d+",
        "0",
        "ONNX files through TensorRT, which ONNX Runtime drives",
        _tensorrt,
        fallbacks=("CUDAExecutionProvider",),
        memory="cuda",
    ),
    "openvino": Provider(
        "OpenVINOExecutionProvider",
        "onnxruntime-openvino",
        r"(CPU|GPU|NPU)(\.\d+)?",
        "CPU",
        "ONNX files through OpenVINO, on Intel's GPUs and NPUs too",
        _openvino,
    ),
}


def providers_here() -> dict[str, str]:
    """The providers of this installation of ONNX Runtime, by device."""
    import onnxruntime

    available = onnxruntime.get_available_providers()
    return {device: row.name for device, row in PROVIDERS.items() if row.name in available}


def select_providers(device: str, precision: str, threads: int) -> SelectedProviders:
    """Return the providers for a device name; one line for an unknown name, or a provider that is not installed."""
    kind, _, part = device.partition(":")
    row = PROVIDERS.get(kind)
    if row is None or (part and not re.fullmatch(row.part, part)):
        raise UsageError(f"device {device!r}: ONNX Runtime runs on {', '.join(PROVIDERS)} here")
    if kind not in providers_here():
        raise UsageError(f"device {device!r}: this ONNX Runtime has no {row.name}: {row.command}; or use --device cpu")
    if precision == "fp32" and kind == "tensorrt":
        # The TensorRT provider has no option against TF32; NVIDIA's libraries read this variable when they are loaded.
        os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")
    target = Target(part or row.default_part, precision, threads, _version())
    names = [row.name, *(name for name in row.fallbacks if name in providers_here().values())]
    options = [row.options(target), *(_cuda(target) for _ in names[1:])]
    if row.name != CPU:
        names.append(CPU)
        options.append({})
    name = f"{kind}:{target.part}" if target.part else kind
    return SelectedProviders(tuple(names), tuple(options), name, row.memory)


def torch_device_for(device: str) -> str:
    """Torch's device for a device of ONNX Runtime: `tensorrt:1` → `cuda:1`, `openvino` → `cpu`."""
    kind, colon, part = device.partition(":")
    row = PROVIDERS.get(kind)
    if row is None or kind == row.memory:
        return device
    return "cpu" if row.memory == "cpu" else f"cuda{colon}{part}"


def _version() -> tuple[int, ...]:
    import onnxruntime

    return tuple(int(number) for number in re.findall(r"\d+", onnxruntime.__version__)[:2])
