"""The part of torch that `Device` uses, on the double GPU. A test holds its names against the real torch."""

from __future__ import annotations

from typing import ClassVar

import double_device
import torch as real
from double_device import Graph, allocate, counts, fault, gpu, gpu_count, new_stream, streams, synchronise

__version__ = "2.8.0+cu128"
version = real.version
float32 = real.float32


class DeviceTensor(real.Tensor):
    """A copy from or to it waits on the current stream, and is not done before that is waited for."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func is not real.Tensor.copy_:
            return super().__torch_function__(func, types, args, kwargs or {})
        assert kwargs == {"non_blocking": True}
        target, source = (tensor.as_subclass(real.Tensor) for tensor in args)
        streams[cuda.current].append(lambda: target.copy_(source))
        return args[0]


def empty(count, *, dtype, device=None):
    assert device == "cuda:0" and cuda.current in streams
    if fault("cuda memory"):
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee documentation")
    return real.frombuffer(allocate(count * 4), dtype=dtype).as_subclass(DeviceTensor)


class Stream:
    def __init__(self, device=None):
        self.cuda_stream = new_stream()

    def synchronize(self):
        assert self.cuda_stream not in cuda.captures
        synchronise(self.cuda_stream)


class CUDAGraph:
    def capture_begin(self, pool=None, capture_error_mode="global"):
        assert capture_error_mode == "thread_local"
        if fault("no capture"):
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")
        cuda.captures[cuda.current] = len(streams[cuda.current])
        counts["captures"] += 1

    def capture_end(self):
        start = cuda.captures.pop(cuda.current)
        self._graph = Graph(streams[cuda.current][start:])
        del streams[cuda.current][start:]

    def replay(self):
        streams[cuda.current].extend(self._graph.work)
        counts["replays"] += 1


class _Properties:
    def __init__(self):
        self.name, self.major, self.minor = gpu()


class _CurrentStream:
    def __init__(self, stream):
        self._stream = stream

    def __enter__(self):
        self._before, cuda.current = cuda.current, self._stream.cuda_stream

    def __exit__(self, *error):
        cuda.current = self._before


class cuda:
    """torch.cuda. `current` is the handle of the current stream, `captures` where a stream's recording began."""

    current = 0
    captures: ClassVar[dict[int, int]] = {}
    Stream = Stream
    CUDAGraph = CUDAGraph
    stream = _CurrentStream

    @staticmethod
    def init():
        if not double_device.gpu_count():
            raise RuntimeError("No CUDA GPUs are available")

    @staticmethod
    def device_count():
        return gpu_count()

    @staticmethod
    def set_device(device):
        pass

    @staticmethod
    def get_device_properties(device):
        return _Properties()
