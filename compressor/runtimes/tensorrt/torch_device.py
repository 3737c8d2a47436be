"""A GPU through torch's own tensors, streams and CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable

import torch

from compressor.base.errors import SrkdError
from compressor.runtimes.tensorrt.device import Buffer, Gpu, cuda_errors, require_gpu


class TorchDevice:
    """The GPU of that number, which becomes torch's current one: TensorRT builds and opens engines on that."""

    def __init__(self, index: int) -> None:
        with cuda_errors("initialization", RuntimeError):
            torch.cuda.init()  # type: ignore[no-untyped-call]
            require_gpu(index, torch.cuda.device_count())
            torch.cuda.set_device(index)
            properties = torch.cuda.get_device_properties(index)
            self._stream = torch.cuda.Stream(index)  # type: ignore[no-untyped-call]
        self.library = f"torch {torch.__version__}"
        self.gpu = Gpu(index, properties.name, f"{properties.major}.{properties.minor}")
        self.stream = int(self._stream.cuda_stream)

    def allocate(self, count: int) -> Buffer:
        # Within the stream, so that torch's allocator hands freed memory to nothing that would not wait for it.
        with cuda_errors(f"an allocation of {count * 4} bytes", RuntimeError), torch.cuda.stream(self._stream):
            host = torch.empty(count, dtype=torch.float32, pin_memory=True)
            memory = torch.empty(count, dtype=torch.float32, device=f"cuda:{self.gpu.index}")
        return Buffer(host, memory.data_ptr(), memory)

    def copy_in(self, buffer: Buffer, count: int) -> None:
        with cuda_errors("a copy to the GPU", RuntimeError), torch.cuda.stream(self._stream):
            buffer.memory[:count].copy_(buffer.host[:count], non_blocking=True)

    def copy_out(self, buffer: Buffer, count: int) -> None:
        with cuda_errors("a copy from the GPU", RuntimeError), torch.cuda.stream(self._stream):
            buffer.host[:count].copy_(buffer.memory[:count], non_blocking=True)

    def synchronise(self) -> None:
        with cuda_errors("the stream", RuntimeError):
            self._stream.synchronize()

    def capture(self, work: Callable[[], None]) -> Callable[[], None] | None:
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.stream(self._stream):
                # Other threads may allocate meanwhile: their calls do not end this capture.
                graph.capture_begin(capture_error_mode="thread_local")
                try:
                    work()
                finally:  # a stream stays in capture until it is ended, whatever became of the work
                    graph.capture_end()
        except (SrkdError, RuntimeError):
            return None

        def replay() -> None:
            with cuda_errors("a CUDA graph", RuntimeError), torch.cuda.stream(self._stream):
                graph.replay()

        return replay
