"""Programs saved by torch, TorchScript and torch.export (.pt2), as teachers.

Such a file is a program of its author, and opening it already runs parts of it. So srkd never opens it in its own
process: a jailed child process (`isolation.py`) tries it, and another one runs it for as long as it is used
(`program_in_child.py`). Images pass through shared memory, which costs 0.1 % of the time of an EDSR of 64 channels.
"""

from __future__ import annotations

import hashlib
import math
import threading
import weakref
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from compressor.base.child import ChildFailed, Worker, start_child
from compressor.base.choices import Layout
from compressor.base.errors import SrkdError, report_unreadable
from compressor.base.files import read_bytes
from compressor.base.isolation import MB, ResourceLimits, jail_obstacle
from compressor.base.machine import total_memory
from compressor.base.shared_memory import SharedMemory, layout_of
from compressor.models.networks.base import Descriptor
from compressor.runtimes.probing import run_experiments
from compressor.teachers.foreign import ForeignFacts

Answer = TypeVar("Answer")
MOST_BYTES = 2**31 - 1
"""The most bytes of a program, ONNX's limit; super-resolution models are smaller."""
CHECKS = 3
"""Version of the trial: a file that passed only an earlier one is tried again."""
LABELS = {"torchscript": "TorchScript", "export": "torch.export program"}
MOST_OF_A_FACT = 100
"""The largest scale, number of channels, size multiple or smallest side, and the longest name."""
PIXELS_PER_LIMIT = 64 * 64
"""Pixels for which a program may take the time that its whole trial may take."""
GPUS = ("nvidia[0-9]*", "nvidiactl", "nvidia-modeset", "nvidia-uvm*", "nvidia-caps/*")
"""Devices in /dev that CUDA opens."""
MOST_AXES = 8
IN_CHILD = "compressor.teachers.program_in_child"


def archive_kind(path: Path) -> str | None:
    """Return "torchscript", "export" or "export-old"; None for anything else, such as a plain checkpoint."""
    try:
        with open(path, "rb") as handle:
            if handle.read(4) != b"PK\x03\x04":
                return None
            names = {name.partition("/")[2] or name for name in zipfile.ZipFile(handle).namelist()}
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, OverflowError, NotImplementedError):
        return None  # zipfile's errors on damaged archives
    if "constants.pkl" in names and any(name.startswith("code/") for name in names):
        return "torchscript"
    if any(name.startswith("models/") and name.endswith(".json") for name in names):
        return "export"
    return "export-old" if "serialized_exported_program.json" in names else None


def open_program(kind: str, path: Path, limits: ResourceLimits, *, trust_code: bool = False) -> JailedProgram:
    """Open a file of a kind returned by `archive_kind`; with `trust_code` its processes are not jailed."""
    obstacle = None if trust_code else jail_obstacle()
    if obstacle is not None:
        raise SrkdError(
            f"{path}: a {LABELS[kind]} may run any code, and there is no jail for it on {obstacle}: export the model "
            "to ONNX, or, if you trust the file, give --trust-code (trust_code=True)"
        )
    with report_unreadable(path):
        content = read_bytes(path, MOST_BYTES)
    limits = replace(limits, is_jailed=not trust_code)
    return JailedProgram(kind, content, path, try_program(kind, content, path, limits), limits)


def try_program(kind: str, content: bytes, path: Path, limits: ResourceLimits) -> ForeignFacts:
    """Return the facts of a program, from running it on small images in a child process."""
    key = hashlib.sha256(f"{kind} {torch.__version__} {CHECKS} ".encode() + content).hexdigest()
    job = {"kind": kind, "shown": str(path)}
    values = run_experiments(f"{IN_CHILD}:try_program", job, content, what=str(path), key=key, limits=limits)
    try:
        return _read_facts(values)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise SrkdError(f"{path}: the process that tried it gave no usable answer ({error})") from error


def _read_facts(values: Mapping[str, Any]) -> ForeignFacts:
    """Return the facts after validation: a child that ran an untrusted file is not trusted."""
    entry = values["descriptor"]
    scale, channels, multiple, least = (int(entry[name]) for name in ("scale", "channels", "size_multiple", "min_size"))
    if min(scale, channels, multiple, least) < 1 or max(scale, channels, multiple, least) > MOST_OF_A_FACT:
        raise ValueError(f"a program of scale {scale}, {channels} channels, multiples of {multiple}, from {least}")
    fixed = None if entry["fixed_size"] is None else (int(entry["fixed_size"][0]), int(entry["fixed_size"][1]))
    descriptor = Descriptor(scale, channels, size_multiple=multiple, min_size=least, fixed_size=fixed)
    params, batch = values["params"], values["largest_batch"]
    return ForeignFacts(
        str(values["backend"])[:MOST_OF_A_FACT],
        str(values["architecture"])[:MOST_OF_A_FACT],
        descriptor,
        None if params is None else int(params),
        None if batch is None else int(batch),
    )


class JailedProgram:
    """A program that runs in a child process, which starts when it is needed and ends with this object."""

    def __init__(self, kind: str, content: bytes, path: Path, facts: ForeignFacts, limits: ResourceLimits) -> None:
        self.facts = facts
        self.limits = limits
        self._kind, self._content, self._path = kind, content, path
        self._device = torch.device("cpu")
        self._lock = threading.Lock()
        self._started: _Started | None = None

    def run(self, images: torch.Tensor) -> torch.Tensor:
        with self._lock:
            memory, layout = self._child().memory, layout_of(images)
            memory.tensor(images.shape, layout).copy_(images.detach())
            shape, output_layout = self._ask(
                "run",
                _read_shape,
                self.limits.seconds * (1 + images[:, 0].numel() / PIXELS_PER_LIMIT),
                shape=list(images.shape),
                layout=layout,
                threads=torch.get_num_threads(),
                precision="bf16" if torch.is_autocast_enabled(images.device.type) else "fp32",
            )
            return memory.tensor(shape, output_layout, after=images.nbytes).clone().to(images.device)

    def move_to(self, device: torch.device) -> torch.device:
        """Start the process that runs the program on a device."""
        with self._lock:
            if self._started is None or device != self._device:
                self._device = device
                self._started = self._start()
        return device

    def digest(self, settings: str) -> str:
        with self._lock:
            return self._ask("digest", str, self.limits.seconds, settings=settings)[:64]

    def memory_bytes(self) -> int:
        """Return the peak memory of the program in its process."""
        with self._lock:
            return self._ask("memory_bytes", int, self.limits.seconds)

    def companions(self) -> Iterable[Path]:
        return ()

    def _ask(self, name: str, read: Callable[[Any], Answer], seconds: float, **arguments: object) -> Answer:
        """Call a method of the child and read its answer, which is not trusted."""
        try:
            return read(self._child().worker.call(name, timeout_seconds=seconds, **arguments))
        except ChildFailed as error:
            raise self._failed(error) from error
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise SrkdError(f"{self._path}: its process gave no usable answer ({str(error)[:80]})") from error

    def _child(self) -> _Started:
        """Return the child, and start it if there is none; it also ends with the thread that started it."""
        if self._started is None or not self._started.thread.is_alive():
            self._started = self._start()
        return self._started

    def _start(self) -> _Started:
        on_gpu = self._device.type == "cuda"
        limits = replace(
            self.limits,
            seconds=math.inf,  # each call has its own limit
            memory_mb=self._memory_mb,
            writable=tuple(str(file) for name in GPUS for file in Path("/dev").glob(name)) if on_gpu else (),
        )
        memory = SharedMemory()
        memory.write(self._content)
        job = {
            "kind": self._kind,
            "shown": str(self._path),
            "size": len(self._content),
            "memory": memory.file,
            "device": str(self._device),
        }
        worker = start_child(
            f"{IN_CHILD}:ProgramInChild",
            job,
            what=str(self._path),
            environment={} if on_gpu else {"CUDA_VISIBLE_DEVICES": ""},
            limits=limits,
            files=[memory.file],
        )
        memory.close_file()
        started = _Started(worker, memory)
        try:
            worker.result(self.limits.seconds)
        except ChildFailed as error:
            raise self._failed(error) from error
        return started

    @property
    def _memory_mb(self) -> int:
        """Megabytes that the child may use: images of a training are larger than those of the trial."""
        return max(self.limits.memory_mb, total_memory() // 2 // MB)

    def _failed(self, error: ChildFailed) -> SrkdError:
        return SrkdError(
            f"{error}; programs of others run in a process of at most {self.limits.seconds:g} s for each 64x64 "
            f"pixels and {self._memory_mb} MB: --limits 4 (limits=4) allows four times as much"
        )


def _read_shape(answer: Any) -> tuple[list[int], Layout]:
    """Return the shape and the layout of an output."""
    shape = [int(side) for side in answer["shape"]]
    if answer["layout"] == "channels_last" and len(shape) == 4:
        return shape, "channels_last"
    if answer["layout"] == "contiguous" and len(shape) <= MOST_AXES:
        return shape, "contiguous"
    raise ValueError(f"{len(shape)} axes in {answer['layout']!r:.40}")


class _Started:
    """A child that keeps a program, with the memory that it shares; both end with this object."""

    def __init__(self, worker: Worker, memory: SharedMemory) -> None:
        self.worker, self.memory, self.thread = worker, memory, threading.current_thread()
        weakref.finalize(self, worker.close)
