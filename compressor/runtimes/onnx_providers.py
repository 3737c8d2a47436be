"""Where ONNX Runtime computes: a device word, the provider that answers to it, and its options."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from compressor.base.errors import SrkdError, UsageError

CPU = "CPUExecutionProvider"


@dataclass(frozen=True)
class Asked:
    """What is to run where. `part` is what follows the colon of the device word."""

    part: str
    precision: str
    threads: int
    version: tuple[int, ...]
    """Of ONNX Runtime: names of options change."""


@dataclass(frozen=True)
class Provider:
    """A row of the table."""

    name: str
    distribution: str
    """What `pip install` brings it with, in place of the plain onnxruntime."""
    part: str
    """What may follow the colon, as a pattern."""
    default_part: str
    adds: str
    options: Callable[[Asked], dict[str, str]]
    behind: tuple[str, ...] = ()
    """Providers for operators that it leaves out, in this order; the CPU stands behind all."""
    memory: Literal["cpu", "cuda"] = "cpu"
    """Where its images lie."""

    @property
    def command(self) -> str:
        """What to type to have it: the distributions are builds of the same package, and only one can be there."""
        return f"pip uninstall -y onnxruntime && pip install {self.distribution}"


@dataclass(frozen=True)
class Choice:
    """Providers and options, as a session wants them; `device` is the full word: "cuda:0"."""

    providers: tuple[str, ...]
    options: tuple[Mapping[str, str], ...]
    device: str
    memory: Literal["cpu", "cuda"]


def _cuda(asked: Asked) -> dict[str, str]:
    # fp32 means fp32: TF32 is this provider's default.
    return {"device_id": asked.part, "use_tf32": "0"}


def _tensorrt(asked: Asked) -> dict[str, str]:
    """Engines and timings are kept: building one takes minutes."""
    from compressor.base.cache_folder import default_folder

    folder = str(default_folder() / "onnxruntime-tensorrt")
    options = {"device_id": asked.part, "trt_fp16_enable": "1" if asked.precision == "fp16" else "0"}
    if asked.precision == "bf16":
        options["trt_bf16_enable"] = "1"
    options |= {"trt_engine_cache_enable": "1", "trt_engine_cache_path": folder}
    return options | {"trt_timing_cache_enable": "1", "trt_timing_cache_path": folder}


def _openvino(asked: Asked) -> dict[str, str]:
    """OpenVINO chooses a lower precision by itself where the processor has one, unless told."""
    hint = {"fp16": "f16", "bf16": "bf16"}.get(asked.precision, "f32")
    if asked.version >= (1, 24):
        kind = asked.part.partition(".")[0]
        wanted: dict[str, str] = {"INFERENCE_PRECISION_HINT": hint}
        if kind == "CPU":
            wanted["INFERENCE_NUM_THREADS"] = str(asked.threads)
        return {"device_type": asked.part, "load_config": json.dumps({kind: wanted})}
    precision = "FP32" if hint == "f32" else "ACCURACY"
    return {"device_type": asked.part, "precision": precision, "num_of_threads": str(asked.threads)}


PROVIDERS: Mapping[str, Provider] = MappingProxyType(
    {
        "cpu": Provider(CPU, "onnxruntime", "", "", "ONNX files on the processor", lambda asked: {}),
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
            behind=("CUDAExecutionProvider",),
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
)


def providers_here() -> dict[str, str]:
    """Device → provider, for those that this installation of ONNX Runtime offers."""
    import onnxruntime

    offered = onnxruntime.get_available_providers()
    return {device: row.name for device, row in PROVIDERS.items() if row.name in offered}


def choose(device: str, precision: str, threads: int) -> Choice:
    """The provider for a device word; one line for a word that means nothing, or what this installation lacks."""
    kind, _, part = device.partition(":")
    row = PROVIDERS.get(kind)
    if row is None or (part and not re.fullmatch(row.part, part)):
        raise UsageError(f"device {device!r}: ONNX Runtime runs on {', '.join(PROVIDERS)} here")
    if kind not in providers_here():
        raise SrkdError(f"device {device!r}: this ONNX Runtime has no {row.name}: {row.command}; or use --device cpu")
    if precision == "fp32" and kind == "tensorrt":
        _forbid_tf32()
    asked = Asked(part or row.default_part, precision, threads, _version())
    names = [row.name, *(name for name in row.behind if name in providers_here().values())]
    options = [row.options(asked), *(_cuda(asked) for _ in names[1:])]
    if row.name != CPU:
        names.append(CPU)
        options.append({})
    word = f"{kind}:{asked.part}" if asked.part else kind
    return Choice(tuple(names), tuple(options), word, row.memory)


def torch_device_for(device: str) -> str:
    """Where torch stands beside a device of ONNX Runtime's: `tensorrt:1` → `cuda:1`, `openvino` → `cpu`."""
    kind, colon, part = device.partition(":")
    row = PROVIDERS.get(kind)
    if row is None or kind == row.memory:
        return device
    return "cpu" if row.memory == "cpu" else f"cuda{colon}{part}"


def _forbid_tf32() -> None:
    """The TensorRT provider has no option for it; NVIDIA's libraries read this when they are loaded."""
    import os

    os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")


def _version() -> tuple[int, ...]:
    import onnxruntime

    return tuple(int(part) for part in re.findall(r"\d+", onnxruntime.__version__)[:2])
