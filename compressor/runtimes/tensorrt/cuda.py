"""The little of CUDA that an engine needs, behind one protocol: cuda-python, or pycuda where only that is there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from compressor.base.errors import MissingExtra, SrkdError, UsageError
from compressor.runtimes.tensorrt.driver import driver_missing

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Gpu:
    """A graphics processor as engine files name it."""

    index: int
    name: str
    capability: str
    memory_bytes: int
    driver: str


@dataclass(frozen=True)
class Buffer:
    """The same number of bytes twice: pinned on the host, so that copies run beside kernels, and on the device."""

    host: Bytes
    address: int
    owner: Any
    """What the binding needs to free it, and to copy."""


@dataclass(frozen=True)
class Stream:
    """An order of work; `handle` is CUDA's own."""

    handle: int
    owner: Any


class Cuda(Protocol):
    """One device through one binding. Calls fail with SrkdError."""

    @property
    def binding(self) -> str:
        """Name and version: "cuda-python 13.5.0"."""
        ...

    @property
    def gpu(self) -> Gpu: ...

    def buffer(self, size: int) -> Buffer: ...

    def free(self, buffer: Buffer) -> None: ...

    def stream(self) -> Stream: ...

    def to_device(self, buffer: Buffer, size: int, stream: Stream) -> None: ...

    def to_host(self, buffer: Buffer, size: int, stream: Stream) -> None: ...

    def synchronise(self, stream: Stream) -> None: ...

    def record(self, stream: Stream, work: Callable[[], None]) -> Callable[[], None] | None:
        """Capture what `work` puts on the stream as a CUDA graph, and give what replays it; None: it can't be had."""
        ...


def open_cuda(index: int = 0) -> Cuda:
    """The device through the first binding that is installed."""
    missing = driver_missing()
    if missing is not None:
        raise SrkdError(missing)
    from compressor.runtimes.tensorrt.cuda_python import CudaPython
    from compressor.runtimes.tensorrt.pycuda_binding import PyCuda

    for binding in (CudaPython, PyCuda):
        try:
            return binding(index)
        except ImportError:
            continue
    raise MissingExtra("cuda-python (or pycuda: 'srkd[pycuda]')", "tensorrt")


def require_device(index: int, count: int) -> None:
    if index >= count:
        raise SrkdError(f"device cuda:{index}: there {'is' if count == 1 else 'are'} {count} NVIDIA GPU here")


def device_index(device: str) -> int:
    """The number of a CUDA device. Verbs say "cpu" by default; an engine runs on GPUs only, so it means the first."""
    kind, _, index = device.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdigit()):
        raise UsageError(f"device {device!r}: an engine runs on an NVIDIA GPU; use --device cuda or cuda:1")
    return int(index or 0)


def driver_text(interface: int, kernel: str | None) -> str:
    """13000 and "580.65.06" → "13.0 (580.65.06)"."""
    version = f"{interface // 1000}.{interface % 1000 // 10}"
    return f"{version} ({kernel})" if kernel else version
