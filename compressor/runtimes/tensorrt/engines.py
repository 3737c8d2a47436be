"""Engines for the machine in use, built from an ONNX file.

Native code that may crash runs in a child process: a build, and the first opening of an engine.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from compressor.base.cache_folder import default_folder
from compressor.base.child import run_in_child
from compressor.base.context import Progress
from compressor.base.errors import SrkdError
from compressor.base.files import file_sha256
from compressor.runtimes.tensorrt.build import build_plan, read_onnx_info
from compressor.runtimes.tensorrt.device import Device, open_device
from compressor.runtimes.tensorrt.engine_file import EngineFile, EngineHeader, Machine, read_engine, write_engine
from compressor.runtimes.tensorrt.installation import driver_version, import_tensorrt
from compressor.runtimes.tensorrt.profiles import OptimizationProfile, size_of
from compressor.runtimes.tensorrt.session import Session


def current_machine(trt: Any, device: Device) -> Machine:
    """This machine as described in engine files."""
    return Machine(str(trt.__version__), device.gpu.name, device.gpu.capability, driver_version())


def machine_tag(machine: Machine) -> str:
    """The machine as a part of file names: trt11.4.0.106-h200-sm90."""
    gpu = re.sub(r"[^a-z0-9]+", "-", machine.gpu.lower()).strip("-").removeprefix("nvidia-")
    return f"trt{machine.tensorrt}-{gpu}-sm{machine.capability.replace('.', '')}"


def build_engine(
    onnx: Path, path: Path, precision: str, profile: OptimizationProfile, trt: Any, device: Device
) -> dict[str, object]:
    """Build an engine file in a child process and return facts for a report."""
    machine = current_machine(trt, device)
    header = EngineHeader(machine, precision, profile, onnx.name, file_sha256(onnx), read_onnx_info(onnx).metadata)
    with tempfile.TemporaryDirectory(prefix="srkd-trt-") as folder:
        plan = Path(folder) / "plan"
        job = {
            "onnx": str(onnx),
            "plan": str(plan),
            "precision": precision,
            "shapes": profile.to_dict(),
            "index": device.gpu.index,
        }
        what = f"{onnx.name} could not be built by TensorRT"
        facts = run_in_child(f"{__name__}:build_in_child", job, what=what)
        write_engine(path, header, plan.read_bytes())
    return {**facts, "gpu": machine.gpu, "driver": machine.driver, "sizes": str(profile), "binding": device.library}


def build_in_child(
    progress: Progress, *, onnx: str, plan: str, precision: str, shapes: dict[str, list[int]], index: int
) -> dict[str, object]:
    """Build a plan in the child process, on the GPU with this index."""
    trt, _device = import_tensorrt(), open_device(index)
    profile = OptimizationProfile.from_dict(shapes)
    return build_plan(trt, Path(onnx), Path(plan), precision, profile)


def usable_engine(path: Path, trt: Any, device: Device) -> EngineFile:
    """Return the engine, first tried in a child process; refuse one that was built for another machine."""
    file = read_engine(path)
    machine = current_machine(trt, device)
    if file.header is not None and file.header.machine != machine:
        differences = "; ".join(file.header.machine.differences(machine))
        raise SrkdError(f"{path} was built for another machine ({differences}): {_export_command(file.header)}")
    _try_once(file, machine, device)
    return file


def _export_command(header: EngineHeader) -> str:
    """The command that builds the same engine for this machine."""
    flag = "--trt" if header.precision == "fp16" else f"--trt-{header.precision}"
    tuned, largest = ("{}x{}".format(*size_of(shape)) for shape in (header.profile.tuned, header.profile.largest))
    sizes = f"--static {largest}" if header.profile.fixed_size else f"--sizes {tuned},{largest}"
    return f"srkd export MODEL {flag} {sizes}, with the checkpoint it came from, makes a new one"


def _try_once(file: EngineFile, machine: Machine, device: Device) -> None:
    """Open and run the engine in a child process, once per engine and machine."""
    digest = hashlib.sha256(file.plan)
    digest.update(repr(machine).encode())
    mark = default_folder() / "tensorrt" / "tried" / digest.hexdigest()[:32]
    if mark.exists():
        return
    job = {"path": str(file.path), "index": device.gpu.index, "label": file.path.stem}
    run_in_child(f"{__name__}:try_in_child", job, what=f"{file.path} could not be opened by TensorRT")
    with suppress(OSError):  # without the mark it is tried again next time
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()


def try_in_child(progress: Progress, *, path: str, index: int, label: str) -> None:
    """Open an engine and run it once on its smallest image."""
    session = Session(import_tensorrt(), open_device(index), read_engine(Path(path)).plan, label)
    session.run(torch.zeros(session.profile.smallest))
