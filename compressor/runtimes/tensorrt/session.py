"""An open engine: memory on the GPU, a stream, and a CUDA graph from the second image of each size on."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from compressor.base.errors import SrkdError
from compressor.runtimes.file_runtime import require_one_image
from compressor.runtimes.tensorrt.device import Device
from compressor.runtimes.tensorrt.installation import BuilderLog
from compressor.runtimes.tensorrt.profiles import OptimizationProfile, Shape, as_shape


class Session:
    """An open engine. `profile` is its first profile. Not thread-safe."""

    def __init__(self, trt: Any, device: Device, plan: bytes, label: str) -> None:
        self._device, self._label = device, label
        self._log = BuilderLog(trt)
        self._runtime: Any = trt.Runtime(self._log.logger)
        self._engine: Any = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise SrkdError(f"{label}: TensorRT {trt.__version__} cannot open it: {self._log.reason()}")
        self._input, self._output = _tensor_names(trt, self._engine, label)
        self.profile = OptimizationProfile(*map(as_shape, self._engine.get_tensor_profile_shape(self._input, 0)))
        self._context: Any = self._engine.create_execution_context()
        if self._context is None:
            raise SrkdError(f"{label}: not enough memory on {device.name} to run it: {self._log.reason()}")
        self._memory: dict[str, Any] = {}
        self._counts: dict[str, int] = {}
        self._shape: Shape | None = None
        """The shape for which the memory is prepared, or None."""
        self._sr_shape: Shape = (0, 0, 0, 0)
        self._runs = 0
        self._replay: Callable[[], None] | None = None

    def run(self, images: torch.Tensor) -> torch.Tensor:
        """Return enlarged float32 images where the given ones are, on the host or on the GPU; the caller owns them."""
        shape = as_shape(images.shape)
        if shape != self._shape:
            self._prepare(shape)
        self._device.copy_in(self._memory[self._input], images.contiguous())
        if self._replay is None and self._runs == 1:
            # In the first run of a size TensorRT does preparations that must not be recorded.
            self._replay = self._device.capture(self._enqueue)
        (self._replay or self._enqueue)()
        sr = torch.empty(self._sr_shape, dtype=torch.float32, device=images.device)
        self._device.copy_out(self._memory[self._output], sr)
        self._runs += 1
        return sr

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(self._device.stream):
            raise SrkdError(f"{self._label}: TensorRT failed on {self._shape}: {self._log.reason()}")

    def _prepare(self, shape: Shape) -> None:
        """Set shapes and addresses; discard a recorded graph, which holds the earlier ones."""
        self._replay, self._runs, self._shape = None, 0, None
        if not self._context.set_input_shape(self._input, shape):
            raise SrkdError(f"{self._label} does not take {shape}: {self._log.reason()}")
        sr_shape = tuple(self._context.get_tensor_shape(self._output))
        if len(sr_shape) != 4 or min(sr_shape) < 1:
            raise SrkdError(f"{self._label} gives shape {sr_shape} for {shape}: not an image")
        self._sr_shape = as_shape(sr_shape)
        for name, count in ((self._input, math.prod(shape)), (self._output, math.prod(sr_shape))):
            if name not in self._memory or self._counts[name] < count:
                self._memory.pop(name, None)  # freed before the larger one is allocated
                self._memory[name], self._counts[name] = self._device.allocate(count), count
            if not self._context.set_tensor_address(name, self._device.address(self._memory[name])):
                raise SrkdError(f"{self._label}: TensorRT does not take memory for {name}: {self._log.reason()}")
        self._shape = shape


def _tensor_names(trt: Any, engine: Any, label: str) -> tuple[str, str]:
    """The names of the only input and the only output, both float32."""
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
    outputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.OUTPUT]
    require_one_image(label, len(inputs), len(outputs))
    for name in names:
        kind = engine.get_tensor_dtype(name)
        if kind != trt.DataType.FLOAT:
            raise SrkdError(f"{label}: {name} is {kind.name}; engines here take and give float32 images in [0,1]")
    if len(engine.get_tensor_shape(inputs[0])) != 4:
        raise SrkdError(f"{label}: {inputs[0]} is not a batch of images")
    return inputs[0], outputs[0]
