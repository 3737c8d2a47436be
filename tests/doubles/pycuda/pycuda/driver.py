"""The part of pycuda.driver that srkd uses. The real one cannot be installed without NVIDIA's toolkit: its names and
signatures are those of its documentation."""

from __future__ import annotations

import ctypes

import double_device as runtime
import numpy as np

popped = []


class Error(Exception):
    pass


def _checked(outcome):
    code, *results = outcome
    if code:
        raise Error(f"{code.name}\n -- this error occurred during a call")
    return results[0] if results else None


def init(flags=0):
    _checked(runtime.cudaGetDeviceCount())


def get_driver_version():
    return _checked(runtime.cudaDriverGetVersion())


class Context:
    def push(self):
        popped.append(False)

    def pop(self):
        popped[-1] = True


class Device:
    def __init__(self, ordinal):
        self._properties = _checked(runtime.cudaGetDeviceProperties(ordinal))

    @staticmethod
    def count():
        return _checked(runtime.cudaGetDeviceCount())

    def retain_primary_context(self):
        return Context()

    def name(self):
        return self._properties.name.decode()

    def compute_capability(self):
        return self._properties.major, self._properties.minor

    def total_memory(self):
        return self._properties.totalGlobalMem


class DeviceAllocation:
    def __init__(self, address):
        self._address = address

    def __int__(self):
        return self._address

    def free(self):
        _checked(runtime.cudaFree(self._address))


def mem_alloc(bytes):
    return DeviceAllocation(_checked(runtime.cudaMalloc(bytes)))


def pagelocked_empty(shape, dtype):
    return np.empty(shape, dtype)


class Stream:
    def __init__(self, flags=0):
        self.handle = _checked(runtime.cudaStreamCreateWithFlags(runtime.cudaStreamNonBlocking))

    def synchronize(self):
        _checked(runtime.cudaStreamSynchronize(self.handle))


def memcpy_htod_async(dest, src, stream=None):
    runtime.streams[stream.handle].append(lambda: ctypes.memmove(int(dest), src.ctypes.data, src.nbytes) and None)


def memcpy_dtoh_async(dest, src, stream=None):
    runtime.streams[stream.handle].append(lambda: ctypes.memmove(dest.ctypes.data, int(src), dest.nbytes) and None)
