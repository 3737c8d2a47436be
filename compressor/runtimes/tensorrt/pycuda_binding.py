"""CUDA by pycuda, for those who have it already. It knows no CUDA graphs; everything else is the same."""

from __future__ import annotations

import atexit
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from compressor.base.errors import SrkdError
from compressor.runtimes.tensorrt.cuda import Buffer, Gpu, Stream, driver_text, require_device
from compressor.runtimes.tensorrt.driver import kernel_driver


class PyCuda:
    """The device of that number; ImportError where pycuda is not installed."""

    def __init__(self, index: int) -> None:
        import pycuda
        import pycuda.driver as driver

        self._cuda: Any = driver
        self.binding = f"pycuda {pycuda.VERSION_TEXT}"
        with self._one_line("init"):
            driver.init()
            require_device(index, driver.Device.count())
            device = driver.Device(index)
            # The context that torch and TensorRT use too; pycuda aborts at the end unless it is popped.
            context = device.retain_primary_context()
            context.push()
            atexit.register(context.pop)
            major, minor = device.compute_capability()
            self.gpu = Gpu(
                index,
                device.name(),
                f"{major}.{minor}",
                int(device.total_memory()),
                driver_text(int(driver.get_driver_version()), kernel_driver()),
            )

    def buffer(self, size: int) -> Buffer:
        with self._one_line(f"{size} bytes"):
            device = self._cuda.mem_alloc(size)
            return Buffer(self._cuda.pagelocked_empty(size, np.uint8), int(device), device)

    def free(self, buffer: Buffer) -> None:
        with self._one_line("free"):
            buffer.owner.free()

    def stream(self) -> Stream:
        with self._one_line("stream"):
            stream = self._cuda.Stream()
            return Stream(int(stream.handle), stream)

    def to_device(self, buffer: Buffer, size: int, stream: Stream) -> None:
        with self._one_line("copy to the device"):
            self._cuda.memcpy_htod_async(buffer.owner, buffer.host[:size], stream.owner)

    def to_host(self, buffer: Buffer, size: int, stream: Stream) -> None:
        with self._one_line("copy to the host"):
            self._cuda.memcpy_dtoh_async(buffer.host[:size], buffer.owner, stream.owner)

    def synchronise(self, stream: Stream) -> None:
        with self._one_line("synchronise"):
            stream.owner.synchronize()

    def record(self, stream: Stream, work: Callable[[], None]) -> Callable[[], None] | None:
        return None

    @contextmanager
    def _one_line(self, doing: str) -> Iterator[None]:
        try:
            yield
        except self._cuda.Error as error:
            raise SrkdError(f"CUDA: {doing} failed: {str(error).splitlines()[0]}") from error
