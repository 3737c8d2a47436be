"""Engines for the machine they are used on: built from an ONNX file, and anew where one was built for another."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from compressor.base.cache_folder import default_folder
from compressor.base.context import Note, Progress, no_note, no_progress
from compressor.base.errors import SrkdError
from compressor.runtimes.tensorrt.apart import run_apart
from compressor.runtimes.tensorrt.build import BuildJob
from compressor.runtimes.tensorrt.cuda import Cuda
from compressor.runtimes.tensorrt.engine_file import (
    EngineFacts,
    EngineFile,
    Machine,
    read_engine,
    sha256_of,
    write_engine,
)
from compressor.runtimes.tensorrt.onnx_facts import onnx_facts
from compressor.runtimes.tensorrt.shapes import Shapes, size_of


def machine_here(trt: Any, cuda: Cuda) -> Machine:
    return Machine(str(trt.__version__), cuda.gpu.name, cuda.gpu.capability, cuda.gpu.driver)


def machine_tag(machine: Machine) -> str:
    """trt11.4.0.106-h200-sm90: what is in file names."""
    gpu = re.sub(r"[^a-z0-9]+", "-", machine.gpu.lower()).strip("-").removeprefix("nvidia-")
    return f"trt{machine.tensorrt}-{gpu}-sm{machine.capability.replace('.', '')}"


def engine_name(onnx: str, precision: str, machine: Machine) -> str:
    """student.fp16.onnx → student.fp16.trt11.4.0.106-h200-sm90.engine"""
    stem = onnx.removesuffix(".onnx").removesuffix(f".{precision}")
    return f"{stem}.{precision}.{machine_tag(machine)}.engine"


def folder() -> Path:
    """Where timing caches are kept, and engines whose own folder cannot be written."""
    return default_folder() / "tensorrt"


def build_engine(
    onnx: Path, path: Path, precision: str, shapes: Shapes, trt: Any, cuda: Cuda, progress: Progress = no_progress
) -> dict[str, object]:
    """Write an engine file; facts for a report. The build happens in another process."""
    machine = machine_here(trt, cuda)
    facts = EngineFacts(machine, precision, shapes, onnx.name, sha256_of(onnx), onnx_facts(onnx).metadata)
    with tempfile.TemporaryDirectory(prefix="srkd-trt-") as work:
        plan = Path(work) / "plan"
        cache = folder() / f"{machine_tag(machine)}.timing"
        job = BuildJob(str(onnx), str(plan), precision, shapes.to_dict(), str(cache))
        told = run_apart(
            "build", {**asdict(job), "device": cuda.gpu.index}, f"{onnx.name} could not be built", progress
        )
        write_engine(path, facts, plan.read_bytes())
    return {**told, "gpu": machine.gpu, "driver": machine.driver, "sizes": shapes.told(), "binding": cuda.binding}


def usable_engine(
    path: Path, trt: Any, cuda: Cuda, progress: Progress = no_progress, announce: Note = no_note
) -> EngineFile:
    """The engine, or the same one built anew for this machine; what it does to a process was tried in another."""
    file = read_engine(path)
    here = machine_here(trt, cuda)
    if file.facts is not None and file.facts.machine != here:
        file = _renewed(file, file.facts, trt, cuda, progress, announce)
    _tried(file, here, cuda)
    return file


def _renewed(
    file: EngineFile, facts: EngineFacts, trt: Any, cuda: Cuda, progress: Progress, announce: Note
) -> EngineFile:
    here = machine_here(trt, cuda)
    why = f"{file.path} was built for another machine ({'; '.join(facts.machine.differences(here))})"
    onnx = file.path.with_name(facts.onnx)
    command = _remedy(facts)
    if not onnx.is_file():
        raise SrkdError(f"{why}, and {facts.onnx}, to build it anew from, is not beside it: {command}")
    if sha256_of(onnx) != facts.onnx_sha256:
        raise SrkdError(f"{why}, and {facts.onnx} beside it is not the file it was built from: {command}")
    beside = file.path.parent if os.access(file.path.parent, os.W_OK) else folder()
    path = beside / engine_name(facts.onnx, facts.precision, here)
    known = _found(path, facts, here)
    if known is not None:
        announce(f"{why}: using {path}")
        return known
    announce(f"{why}: building {path} from {facts.onnx}")
    build_engine(onnx, path, facts.precision, facts.shapes, trt, cuda, progress)
    return read_engine(path)


def _remedy(facts: EngineFacts) -> str:
    """The command that makes the same engine for this machine."""
    if facts.precision == "int8":  # of a file that holds the scales; a checkpoint does not
        return f"bring {facts.onnx} here, its int8 scales are nowhere else"
    flag = "--trt" if facts.precision == "fp16" else f"--trt-{facts.precision}"
    tuned, largest = ("{}x{}".format(*size_of(shape)) for shape in (facts.shapes.tuned, facts.shapes.largest))
    sizes = f"--static {largest}" if facts.shapes.fixed else f"--sizes {tuned},{largest}"
    return f"srkd export MODEL {flag} {sizes}, with the checkpoint it came from, makes a new one"


def _found(path: Path, facts: EngineFacts, here: Machine) -> EngineFile | None:
    """An engine that was renewed before, if it is the same network at the same sizes."""
    if not path.is_file():
        return None
    with suppress(SrkdError):  # damaged: it is built again
        file = read_engine(path)
        made = file.facts
        if made is not None and (made.machine, made.onnx_sha256) == (here, facts.onnx_sha256):
            return file if (made.precision, made.shapes) == (facts.precision, facts.shapes) else None
    return None


def _tried(file: EngineFile, here: Machine, cuda: Cuda) -> None:
    """Once for each engine and machine: deserialize and run it where a crash does no harm."""
    digest = hashlib.sha256(file.plan)
    digest.update(repr(here).encode())
    mark = folder() / "tried" / digest.hexdigest()[:32]
    if mark.exists():
        return
    job = {"path": str(file.path), "device": cuda.gpu.index, "label": file.path.stem}
    run_apart("try", job, f"{file.path} could not be opened")
    with suppress(OSError):  # without the mark it is tried again
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
