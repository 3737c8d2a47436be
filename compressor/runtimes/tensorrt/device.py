"""The part of CUDA that an engine needs: memory, copies, a stream, a recorded graph.

torch provides them as tensors, streams and CUDA graphs; pycuda for a torch that was built without CUDA.
"""

from __future__ import annotations

import atexit
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from compressor.base.errors import MissingExtra, SrkdError, UsageError, reason_of
from compressor.runtimes.tensorrt.installation import driver_missing


def open_device(index: int = 0) -> Device:
    """The GPU by torch, or by pycuda if torch was built without CUDA."""
    if (missing := driver_missing()) is not None:
        raise SrkdError(missing)
    if torch.version.cuda is not None:
        return Device(index)
    try:
        return PyCudaDevice(index)
    except ImportError as error:
        raise MissingExtra("pycuda (this torch was built without CUDA)", "pycuda") from error


class Device:
    """A GPU, made torch's current one, on which TensorRT builds and opens engines, and a stream of its own on it.

    The default stream cannot be recorded. Calls fail with SrkdError.
    """

    def __init__(self, index: int) -> None:
        with cuda_errors("initialization", RuntimeError):
            torch.cuda.init()  # type: ignore[no-untyped-call]
            require_gpu(index, torch.cuda.device_count())
            torch.cuda.set_device(index)
            properties = torch.cuda.get_device_properties(index)
            self._stream: Any = torch.cuda.Stream(index)  # type: ignore[no-untyped-call]
        self.index, self.name, self.capability = index, properties.name, f"{properties.major}.{properties.minor}"
        self.stream = int(self._stream.cuda_stream)

    def allocate(self, count: int) -> Any:
        """Return memory for float32 values, which is freed with its last reference."""
        # Allocate within the stream, so that torch's allocator reuses the memory only after the work on this stream.
        with cuda_errors(f"an allocation of {count * 4} bytes", RuntimeError), torch.cuda.stream(self._stream):
            return torch.empty(count, dtype=torch.float32, device=f"cuda:{self.index}")

    def address(self, memory: Any) -> int:
        return int(memory.data_ptr())

    def copy_in(self, memory: Any, images: torch.Tensor) -> None:
        with cuda_errors("a copy to the engine", RuntimeError):
            if images.is_cuda:  # they may still be being computed
                self._stream.wait_stream(torch.cuda.current_stream(images.device))
            with torch.cuda.stream(self._stream):
                memory[: images.numel()].view(images.shape).copy_(images, non_blocking=True)

    def copy_out(self, memory: Any, images: torch.Tensor) -> None:
        """Copy the first values of the memory into `images`, and wait until all work on the stream is done."""
        with cuda_errors("the stream", RuntimeError), torch.cuda.stream(self._stream):
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
            with cuda_errors("a CUDA graph", RuntimeError), torch.cuda.stream(self._stream):
                graph.replay()

        return replay


class PyCudaDevice(Device):
    """A GPU by pycuda, without CUDA graphs; ImportError if pycuda is not installed."""

    def __init__(self, index: int) -> None:
        import pycuda.driver as cuda

        self._cuda: Any = cuda
        with cuda_errors("initialization", cuda.Error):
            cuda.init()
            require_gpu(index, cuda.Device.count())
            device = cuda.Device(index)
            # The context that TensorRT uses, too; pycuda aborts at exit unless it is popped.
            context = device.retain_primary_context()
            context.push()
            atexit.register(context.pop)
            major, minor = device.compute_capability()
            self._stream = cuda.Stream()
        self.index, self.name, self.capability = index, device.name(), f"{major}.{minor}"
        self.stream = int(self._stream.handle)

    def allocate(self, count: int) -> Any:
        with cuda_errors(f"an allocation of {count * 4} bytes", self._cuda.Error):
            return self._cuda.mem_alloc(count * 4)

    def address(self, memory: Any) -> int:
        return int(memory)

    def copy_in(self, memory: Any, images: torch.Tensor) -> None:
        with cuda_errors("a copy to the engine", self._cuda.Error):
            self._cuda.memcpy_htod(memory, images.numpy())

    def copy_out(self, memory: Any, images: torch.Tensor) -> None:
        with cuda_errors("the stream", self._cuda.Error):
            self._stream.synchronize()
            self._cuda.memcpy_dtoh(images.numpy(), memory)

    def capture(self, work: Callable[[], None]) -> Callable[[], None] | None:
        return None


@contextmanager
def cuda_errors(task: str, *kinds: type[Exception]) -> Iterator[None]:
    try:
        yield
    except kinds as error:
        raise SrkdError(f"CUDA: {task} failed: {reason_of(error, first=True)}") from error


def require_gpu(index: int, count: int) -> None:
    if index >= count:
        raise SrkdError(f"device cuda:{index}: the number of NVIDIA GPUs here is {count}")


def device_index(device: str) -> int:
    """The index of a CUDA device. The commands' default "cpu" means the first GPU: an engine needs one."""
    kind, _, index = device.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdigit()):
        raise UsageError(f"device {device!r}: an engine runs on an NVIDIA GPU; use --device cuda or cuda:1")
    return int(index or 0)
