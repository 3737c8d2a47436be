"""The part of CUDA that an engine needs, from torch: memory, copies, a stream, a recorded graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from compressor.base.errors import SrkdError, UsageError, reason_of
from compressor.runtimes.tensorrt.installation import driver_missing


def open_device(index: int = 0) -> Device:
    """A GPU, by a torch that was built for CUDA."""
    if (missing := driver_missing()) is not None:
        raise SrkdError(missing)
    if torch.version.cuda is None:
        raise SrkdError(f"this torch {torch.__version__} was built without CUDA, which TensorRT needs: install another")
    return Device(index)


class Device:
    """A GPU, made torch's current one, on which TensorRT builds and opens engines, and a stream of its own on it.

    The default stream cannot be recorded. Calls fail with SrkdError.
    """

    def __init__(self, index: int) -> None:
        with cuda_errors("initialization"):
            torch.cuda.init()  # type: ignore[no-untyped-call]
            if index >= (count := torch.cuda.device_count()):
                raise SrkdError(f"device cuda:{index}: there {'is' if count == 1 else 'are'} {count} NVIDIA GPU here")
            torch.cuda.set_device(index)
            properties = torch.cuda.get_device_properties(index)
            self._stream: Any = torch.cuda.Stream(index)  # type: ignore[no-untyped-call]
        self.index, self.name, self.capability = index, properties.name, f"{properties.major}.{properties.minor}"
        self.stream = int(self._stream.cuda_stream)

    def allocate(self, count: int) -> Any:
        # Allocate within the stream, so that torch's allocator reuses the memory only after the work on this stream.
        with cuda_errors(f"an allocation of {count * 4} bytes"), torch.cuda.stream(self._stream):
            return torch.empty(count, dtype=torch.float32, device=f"cuda:{self.index}")

    def copy_in(self, memory: Any, images: torch.Tensor) -> None:
        with cuda_errors("a copy to the engine"):
            if images.is_cuda:  # they may still be being computed
                self._stream.wait_stream(torch.cuda.current_stream(images.device))
            with torch.cuda.stream(self._stream):
                memory[: images.numel()].view(images.shape).copy_(images, non_blocking=True)

    def copy_out(self, memory: Any, images: torch.Tensor) -> None:
        """Copy the first values of the memory into `images`, and wait until all work on the stream is done."""
        with cuda_errors("the stream"), torch.cuda.stream(self._stream):
            images.copy_(memory[: images.numel()].view(images.shape), non_blocking=True)
            self._stream.synchronize()

    def capture(self, work: Callable[[], None]) -> Callable[[], None] | None:
        """Record what `work` enqueues as a CUDA graph; return a function that replays it, None if that fails."""
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.stream(self._stream):
                # Allocations of other threads do not end this capture.
                graph.capture_begin(capture_error_mode="thread_local")
                try:
                    work()
                finally:  # end the capture of the stream even if the work failed
                    graph.capture_end()
        except (SrkdError, RuntimeError):
            return None

        def replay() -> None:
            with cuda_errors("a CUDA graph"), torch.cuda.stream(self._stream):
                graph.replay()

        return replay


@contextmanager
def cuda_errors(task: str) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise SrkdError(f"CUDA: {task} failed: {reason_of(error, first=True)}") from error


def device_index(device: str) -> int:
    """The index of a CUDA device. The commands' default "cpu" means the first GPU: an engine needs one."""
    kind, _, index = device.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdigit()):
        raise UsageError(f"device {device!r}: an engine runs on an NVIDIA GPU; use --device cuda or cuda:1")
    return int(index or 0)
