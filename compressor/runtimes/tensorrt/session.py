"""An engine at work: pinned buffers, a stream of its own, and a CUDA graph once a size comes a second time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compressor.base.errors import SrkdError
from compressor.runtimes.tensorrt.cuda import Buffer, Cuda
from compressor.runtimes.tensorrt.library import Said, logger
from compressor.runtimes.tensorrt.shapes import Shape, Shapes

Images = NDArray[np.float32]
FLOAT = 4


class Session:
    """`shapes` are those of its first profile. Not for several threads at once."""

    def __init__(self, trt: Any, cuda: Cuda, plan: bytes, label: str) -> None:
        self._trt, self._cuda, self._label = trt, cuda, label
        self._said = Said()
        self._log = logger(trt, self._said)
        self._runtime: Any = trt.Runtime(self._log)
        self._engine: Any = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise SrkdError(f"{label}: TensorRT {trt.__version__} cannot open it: {self._said.reason()}")
        self._input, self._output = self._tensors()
        smallest, tuned, largest = self._engine.get_tensor_profile_shape(self._input, 0)
        self.shapes = Shapes(shape_of(smallest), shape_of(tuned), shape_of(largest))
        self._context: Any = self._engine.create_execution_context()
        if self._context is None:
            raise SrkdError(f"{label}: no room on {cuda.gpu.name} to run it: {self._said.reason()}")
        self._stream = cuda.stream()
        self._buffers: dict[str, Buffer] = {}
        self._shape: Shape | None = None
        self._asked: Shape | None = None
        self._result: tuple[int, ...] = ()
        self._runs = 0
        self._replay: Callable[[], None] | None = None

    @property
    def graph(self) -> bool:
        """Whether the last run was a CUDA graph's."""
        return self._replay is not None

    def run(self, images: Images) -> Images:
        """Enlarge images of a shape that the engine takes; the result is the caller's."""
        shape = shape_of(images.shape)
        if shape != self._shape:
            self._prepare(shape)
        fed = self._buffers[self._input].host[: images.size * FLOAT].view(np.float32)
        np.copyto(fed.reshape(shape), images)
        if self._replay is None and self._runs == 1:
            # The first run of a size prepares within TensorRT what must not be recorded.
            self._replay = self._cuda.record(self._stream, self._enqueue)
        (self._replay or self._enqueue)()
        self._cuda.synchronise(self._stream)
        self._runs += 1
        size = int(np.prod(self._result))
        given = self._buffers[self._output].host[: size * FLOAT].view(np.float32)
        return np.array(given.reshape(self._result), np.float32)

    def result_shape(self, shape: Shape) -> tuple[int, ...]:
        """What comes of images of this shape; the next `run` prepares itself anew."""
        self._replay, self._shape = None, None
        return self._sized(shape)

    def run_at(self, source: int, target: int) -> None:
        """The same for images that lie on the device already, of the shape that `result_shape` was asked for."""
        for name, address in ((self._input, source), (self._output, target)):
            self._placed(name, address)
        self._execute()
        self._cuda.synchronise(self._stream)

    def close(self) -> None:
        """Give the memory back. Nothing can be run afterwards."""
        self._replay = None
        for buffer in self._buffers.values():
            self._cuda.free(buffer)
        self._buffers.clear()
        self._context = self._engine = self._runtime = None

    def _enqueue(self) -> None:
        images, result = self._buffers[self._input], self._buffers[self._output]
        self._cuda.to_device(images, int(np.prod(self._shape or ())) * FLOAT, self._stream)
        self._execute()
        self._cuda.to_host(result, int(np.prod(self._result)) * FLOAT, self._stream)

    def _execute(self) -> None:
        if not self._context.execute_async_v3(self._stream.handle):
            raise SrkdError(f"{self._label}: TensorRT failed on {self._asked}: {self._said.reason()}")

    def _prepare(self, shape: Shape) -> None:
        """Shapes and addresses; a recorded graph knows those of before and goes."""
        self._replay, self._runs, self._shape = None, 0, None
        self._result = self._sized(shape)
        for name, sides in ((self._input, shape), (self._output, self._result)):
            self._placed(name, self._room(name, int(np.prod(sides)) * FLOAT))
        self._shape = shape

    def _sized(self, shape: Shape) -> tuple[int, ...]:
        self._asked = shape
        if not self._context.set_input_shape(self._input, shape):
            raise SrkdError(f"{self._label} does not take {shape}: {self._said.reason()}")
        result = tuple(int(side) for side in self._context.get_tensor_shape(self._output))
        if len(result) != 4 or min(result) < 1:
            raise SrkdError(f"{self._label} gives shape {result} for {shape}: not an image")
        return result

    def _placed(self, name: str, address: int) -> None:
        if not self._context.set_tensor_address(name, address):
            raise SrkdError(f"{self._label}: TensorRT does not take a buffer for {name}: {self._said.reason()}")

    def _room(self, name: str, size: int) -> int:
        held = self._buffers.get(name)
        if held is None or held.host.size < size:
            if held is not None:
                del self._buffers[name]
                self._cuda.free(held)
            self._buffers[name] = held = self._cuda.buffer(size)
        return held.address

    def _tensors(self) -> tuple[str, str]:
        """Names of the only input and output, both float32."""
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        mode = self._trt.TensorIOMode
        inputs = [name for name in names if self._engine.get_tensor_mode(name) == mode.INPUT]
        outputs = [name for name in names if self._engine.get_tensor_mode(name) == mode.OUTPUT]
        if len(inputs) != 1 or len(outputs) != 1:
            raise SrkdError(
                f"{self._label} has {len(inputs)} inputs and {len(outputs)} outputs: "
                "a super-resolution model has one each"
            )
        for name in names:
            kind = self._engine.get_tensor_dtype(name)
            if kind != self._trt.DataType.FLOAT:
                raise SrkdError(
                    f"{self._label}: {name} is {kind.name}; engines here take and give float32 images in [0,1]"
                )
        if len(self._engine.get_tensor_shape(inputs[0])) != 4:
            raise SrkdError(f"{self._label}: {inputs[0]} is no batch of images")
        return inputs[0], outputs[0]


def shape_of(sides: Any) -> Shape:
    batch, channels, height, width = (int(side) for side in sides)
    return batch, channels, height, width
