"""CUDA by NVIDIA's cuda-python: the runtime interface, whose calls give an error code and then their results."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np

from compressor.base.errors import SrkdError
from compressor.base.machine import installed_version
from compressor.runtimes.tensorrt.cuda import Buffer, Gpu, Stream, driver_text, require_device
from compressor.runtimes.tensorrt.driver import kernel_driver


class CudaPython:
    """The device of that number; ImportError where cuda-python is not installed."""

    def __init__(self, index: int) -> None:
        import cuda.bindings.runtime as runtime

        self._cuda: Any = runtime
        self.binding = f"cuda-python {installed_version('cuda-bindings') or ''}".strip()
        require_device(index, self._call("cudaGetDeviceCount"))
        self._call("cudaSetDevice", index)
        properties = self._call("cudaGetDeviceProperties", index)
        name = properties.name
        self.gpu = Gpu(
            index,
            name.decode(errors="replace") if isinstance(name, bytes) else str(name),
            f"{properties.major}.{properties.minor}",
            int(properties.totalGlobalMem),
            driver_text(int(self._call("cudaDriverGetVersion")), kernel_driver()),
        )

    def buffer(self, size: int) -> Buffer:
        address = int(self._call("cudaMalloc", size))
        try:
            pinned = int(self._call("cudaHostAlloc", size, self._cuda.cudaHostAllocDefault))
        except SrkdError:
            self._call("cudaFree", address)
            raise
        host = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(pinned))
        return Buffer(host, address, pinned)

    def free(self, buffer: Buffer) -> None:
        self._call("cudaFreeHost", buffer.owner)
        self._call("cudaFree", buffer.address)

    def stream(self) -> Stream:
        # One that waits for nobody else's, and can be captured: the default stream can't.
        stream = self._call("cudaStreamCreateWithFlags", self._cuda.cudaStreamNonBlocking)
        return Stream(int(stream), stream)

    def to_device(self, buffer: Buffer, size: int, stream: Stream) -> None:
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", buffer.address, buffer.owner, size, kind, stream.owner)

    def to_host(self, buffer: Buffer, size: int, stream: Stream) -> None:
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", buffer.owner, buffer.address, size, kind, stream.owner)

    def synchronise(self, stream: Stream) -> None:
        self._call("cudaStreamSynchronize", stream.owner)

    def record(self, stream: Stream, work: Callable[[], None]) -> Callable[[], None] | None:
        try:
            graph = self._captured(stream, work)
        except SrkdError:
            return None
        try:
            runnable = self._call("cudaGraphInstantiate", graph, 0)
        except SrkdError:
            return None
        finally:
            self._call("cudaGraphDestroy", graph)
        return _Replay(self._call, runnable, stream)

    def _captured(self, stream: Stream, work: Callable[[], None]) -> Any:
        mode = self._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", stream.owner, mode)
        try:
            work()
        except SrkdError:
            # A stream stays in capture until it is ended, whatever became of the work.
            self._cuda.cudaStreamEndCapture(stream.owner)
            raise
        return self._call("cudaStreamEndCapture", stream.owner)

    def _call(self, name: str, *arguments: Any) -> Any:
        """One call; its single result, or None."""
        try:
            code, *results = getattr(self._cuda, name)(*arguments)
        except RuntimeError as error:  # cuda.pathfinder, where a library is not there at all
            raise SrkdError(f"CUDA: {name}: {str(error).splitlines()[0]}") from error
        if int(code) != 0:
            raise SrkdError(f"CUDA: {name} failed with {self._told(code)}")
        return results[0] if results else None

    def _told(self, code: Any) -> str:
        _, text = self._cuda.cudaGetErrorString(code)
        said = text.decode(errors="replace") if isinstance(text, bytes) else str(text)
        return f"error {int(code)}: {said}"


class _Replay:
    """A graph that can be launched; its memory goes when nobody holds it any more."""

    def __init__(self, call: Callable[..., Any], runnable: Any, stream: Stream) -> None:
        self._call, self._runnable, self._stream = call, runnable, stream

    def __call__(self) -> None:
        self._call("cudaGraphLaunch", self._runnable, self._stream.owner)

    def __del__(self) -> None:
        with suppress(SrkdError):  # at the end of the process CUDA may be gone already
            self._call("cudaGraphExecDestroy", self._runnable)
