"""The small part of CUDA that an engine needs, as one protocol: memory, copies, a stream, a recorded graph.

`torch_device.py` implements it with torch, `pycuda_device.py` with pycuda for a torch that was built without CUDA.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from compressor.base.errors import SrkdError, UsageError


@dataclass(frozen=True)
class Gpu:
    """A graphics processor as engine files name it."""

    index: int
    name: str
    capability: str


@dataclass(frozen=True)
class Buffer:
    """The same number of float32 values twice: pinned on the host, so that copies run beside kernels, and on the GPU.

    Both are freed when the last reference goes.
    """

    host: torch.Tensor
    address: int
    memory: Any
    """The library's own object for the GPU's side."""


class Device(Protocol):
    """One GPU and one stream of work on it. Calls fail with SrkdError."""

    @property
    def library(self) -> str:
        """Name and version of what reaches CUDA: "torch 2.8.0+cu128"."""
        ...

    @property
    def gpu(self) -> Gpu: ...

    @property
    def stream(self) -> int:
        """CUDA's handle of the stream; it is not the default stream, which cannot be captured."""
        ...

    def allocate(self, count: int) -> Buffer:
        """Return memory for `count` float32 values."""
        ...

    def copy_in(self, buffer: Buffer, count: int) -> None:
        """Put a copy of the first `count` values from the host to the GPU on the stream."""
        ...

    def copy_out(self, buffer: Buffer, count: int) -> None:
        """Put a copy of the first `count` values from the GPU to the host on the stream."""
        ...

    def synchronise(self) -> None:
        """Wait until the stream is empty."""
        ...

    def capture(self, work: Callable[[], None]) -> Callable[[], None] | None:
        """Record what `work` puts on the stream as a CUDA graph; return what replays it, None where that fails."""
        ...


@contextmanager
def cuda_errors(task: str, *kinds: type[Exception]) -> Iterator[None]:
    """Turn the CUDA library's errors into one line."""
    try:
        yield
    except kinds as error:
        raise SrkdError(
            f"CUDA: {task} failed: {(str(error).strip() or type(error).__name__).splitlines()[0]}"
        ) from error


def require_gpu(index: int, count: int) -> None:
    """Refuse the number of a GPU that is not there."""
    if index >= count:
        raise SrkdError(f"device cuda:{index}: there {'is' if count == 1 else 'are'} {count} NVIDIA GPU here")


def device_index(device: str) -> int:
    """Return the number of a CUDA device. Verbs say "cpu" by default; an engine runs on GPUs only: the first."""
    kind, _, index = device.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdigit()):
        raise UsageError(f"device {device!r}: an engine runs on an NVIDIA GPU; use --device cuda or cuda:1")
    return int(index or 0)
