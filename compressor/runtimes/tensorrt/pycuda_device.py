"""A GPU through pycuda, for a torch that was built without CUDA. It has no CUDA graphs; the rest is the same."""

from __future__ import annotations

import atexit
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from compressor.runtimes.tensorrt.device import Buffer, Gpu, cuda_errors, require_gpu


class PyCudaDevice:
    """The GPU of that number; ImportError where pycuda is not installed."""

    def __init__(self, index: int) -> None:
        import pycuda
        import pycuda.driver as cuda

        self._cuda: Any = cuda
        with cuda_errors("initialization", cuda.Error):
            cuda.init()
            require_gpu(index, cuda.Device.count())
            device = cuda.Device(index)
            # The context that TensorRT uses too; pycuda aborts at the end of the process unless it is popped.
            context = device.retain_primary_context()
            context.push()
            atexit.register(context.pop)
            major, minor = device.compute_capability()
            self._stream = cuda.Stream()
        self.library = f"pycuda {pycuda.VERSION_TEXT}"
        self.gpu = Gpu(index, device.name(), f"{major}.{minor}")
        self.stream = int(self._stream.handle)

    def allocate(self, count: int) -> Buffer:
        with cuda_errors(f"an allocation of {count * 4} bytes", self._cuda.Error):
            memory = self._cuda.mem_alloc(count * 4)
            host = torch.from_numpy(self._cuda.pagelocked_empty(count, np.float32))
        return Buffer(host, int(memory), memory)

    def copy_in(self, buffer: Buffer, count: int) -> None:
        with cuda_errors("a copy to the GPU", self._cuda.Error):
            self._cuda.memcpy_htod_async(buffer.memory, buffer.host[:count].numpy(), self._stream)

    def copy_out(self, buffer: Buffer, count: int) -> None:
        with cuda_errors("a copy from the GPU", self._cuda.Error):
            self._cuda.memcpy_dtoh_async(buffer.host[:count].numpy(), buffer.memory, self._stream)

    def synchronise(self) -> None:
        with cuda_errors("the stream", self._cuda.Error):
            self._stream.synchronize()

    def capture(self, work: Callable[[], None]) -> Callable[[], None] | None:
        return None
