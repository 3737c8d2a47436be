"""Engines for the machine in use, built from an ONNX file in a child process: TensorRT's builder may crash."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

from compressor.base.child import run_in_child
from compressor.base.context import Progress
from compressor.base.errors import SrkdError
from compressor.runtimes.onnx_file import read_facts
from compressor.runtimes.tensorrt.build import build_plan
from compressor.runtimes.tensorrt.device import Device, open_device
from compressor.runtimes.tensorrt.engine_file import EngineHeader, Machine, read_engine, write_engine
from compressor.runtimes.tensorrt.installation import driver_version, import_tensorrt
from compressor.runtimes.tensorrt.profiles import OptimizationProfile, as_shape, size_of


def current_machine(trt: Any, device: Device) -> Machine:
    """This machine as described in engine files."""
    return Machine(str(trt.__version__), device.name, device.capability, driver_version())


def machine_tag(machine: Machine) -> str:
    """The machine as a part of file names: trt11.4.0.106-h200-sm90."""
    gpu = re.sub(r"[^a-z0-9]+", "-", machine.gpu.lower()).strip("-").removeprefix("nvidia-")
    return f"trt{machine.tensorrt}-{gpu}-sm{machine.capability.replace('.', '')}"


def build_engine(
    onnx: Path, path: Path, precision: str, profile: OptimizationProfile, trt: Any, device: Device
) -> dict[str, object]:
    """Build an engine file in a child process and return facts for a report."""
    machine = current_machine(trt, device)
    header = EngineHeader(machine, precision, profile, read_facts(onnx)[1])
    with tempfile.TemporaryDirectory(prefix="srkd-trt-") as folder:
        plan = Path(folder) / "plan"
        job = {
            "onnx": str(onnx),
            "plan": str(plan),
            "precision": precision,
            "shapes": profile.shapes,
            "index": device.index,
        }
        facts = run_in_child(f"{__name__}:build_in_child", job, what=f"{onnx.name} could not be built by TensorRT")
        write_engine(path, header, plan.read_bytes())
    return {**facts, "gpu": machine.gpu, "driver": machine.driver, "sizes": str(profile)}


def build_in_child(
    progress: Progress, *, onnx: str, plan: str, precision: str, shapes: list[list[int]], index: int
) -> dict[str, object]:
    trt, _device = import_tensorrt(), open_device(index)
    return build_plan(trt, Path(onnx), Path(plan), precision, OptimizationProfile(*map(as_shape, shapes)))


def usable_engine(path: Path, trt: Any, device: Device) -> tuple[EngineHeader | None, bytes]:
    """Return header and plan of an engine file; refuse one that was built for another machine."""
    header, plan = read_engine(path)
    if header is not None:
        differences = "; ".join(header.machine.differences(current_machine(trt, device)))
        if differences:
            profile, flag = header.profile, "--trt" if header.precision == "fp16" else f"--trt-{header.precision}"
            tuned, largest = ("{}x{}".format(*size_of(shape)) for shape in (profile.tuned, profile.largest))
            sizes = f"--static {largest}" if profile.fixed_size else f"--sizes {tuned},{largest}"
            raise SrkdError(
                f"{path} was built for another machine ({differences}): srkd export MODEL {flag} {sizes}, with the "
                "checkpoint it came from, makes a new one"
            )
    return header, plan
