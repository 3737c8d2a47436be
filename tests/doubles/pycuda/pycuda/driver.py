"""The part of pycuda.driver that srkd uses. The real one cannot be installed without NVIDIA's toolkit: its names and
signatures are those of its documentation."""

from __future__ import annotations

import ctypes

import double_device


class Error(Exception):
    pass


def init(flags=0):
    if not double_device.gpu_count():
        raise Error("cuInit failed: no CUDA-capable device is detected\n -- this error occurred during a call")


class Context:
    def push(self):
        pass

    pop = push


class Device:
    def __init__(self, ordinal):
        self._name, self._major, self._minor = double_device.gpu()

    count = staticmethod(double_device.gpu_count)

    def retain_primary_context(self):
        return Context()

    def name(self):
        return self._name

    def compute_capability(self):
        return self._major, self._minor


class DeviceAllocation:
    def __init__(self, size):
        self._block = double_device.allocate(size)

    def __int__(self):
        return ctypes.addressof(self._block)


def mem_alloc(bytes):
    if double_device.fault("cuda memory"):
        raise Error("cuMemAlloc failed: out of memory")
    return DeviceAllocation(bytes)


class Stream:
    def __init__(self, flags=0):
        self.handle = double_device.new_stream()

    def synchronize(self):
        double_device.synchronise(self.handle)


def memcpy_htod(dest, src):
    ctypes.memmove(int(dest), src.ctypes.data, src.nbytes)


def memcpy_dtoh(dest, src):
    ctypes.memmove(dest.ctypes.data, int(src), dest.nbytes)
