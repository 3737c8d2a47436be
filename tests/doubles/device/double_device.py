"""A GPU as cuda-python's runtime interface shows it: device memory is host memory, and nothing happens before it is
waited for, so that who does not synchronise reads old bytes.

SRKD_DOUBLE_GPU     name|major|minor, NVIDIA H200|9|0 by default
SRKD_DOUBLE_DRIVER  13000 by default
"""

from __future__ import annotations

import ctypes
import enum
import os
from collections.abc import Callable
from types import SimpleNamespace

cudaHostAllocDefault = 0
cudaStreamNonBlocking = 1


class cudaError_t(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorNoDevice = 100
    cudaErrorStreamCaptureUnsupported = 900


class cudaMemcpyKind(enum.IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


class cudaStreamCaptureMode(enum.IntEnum):
    cudaStreamCaptureModeThreadLocal = 1


_OK = cudaError_t.cudaSuccess
_Work = Callable[[], None]
memory: dict[int, ctypes.Array] = {}
streams: dict[int, list[_Work]] = {}
captures: dict[int, int] = {}
counts = {"replays": 0, "captures": 0, "graphs": 0}


def cudaGetDeviceCount():
    count = int(os.environ.get("SRKD_DOUBLE_GPUS", "1"))
    return (_OK, count) if count else (cudaError_t.cudaErrorNoDevice, None)


def cudaSetDevice(device):
    return (_OK,)


def cudaGetDeviceProperties(device):
    name, major, minor = os.environ.get("SRKD_DOUBLE_GPU", "NVIDIA H200|9|0").split("|")
    return _OK, SimpleNamespace(name=name.encode(), major=int(major), minor=int(minor), totalGlobalMem=141 * 10**9)


def cudaDriverGetVersion():
    return _OK, int(os.environ.get("SRKD_DOUBLE_DRIVER", "13000"))


def cudaGetErrorString(error):
    return _OK, cudaError_t(error).name.encode()


def cudaMalloc(size):
    if os.environ.get("SRKD_DOUBLE_FAULT") == "cuda memory":
        return cudaError_t.cudaErrorMemoryAllocation, None
    block = (ctypes.c_uint8 * size)()
    memory[ctypes.addressof(block)] = block
    return _OK, ctypes.addressof(block)


def cudaHostAlloc(size, flags):
    return cudaMalloc(size)


def cudaFree(devPtr):
    return (_OK,) if memory.pop(devPtr, None) is not None else (cudaError_t.cudaErrorInvalidValue,)


def cudaFreeHost(ptr):
    return cudaFree(ptr)


def cudaStreamCreateWithFlags(flags):
    assert flags == cudaStreamNonBlocking
    handle = 1000 + len(streams)
    streams[handle] = []
    return _OK, handle


def cudaStreamSynchronize(stream):
    assert stream not in captures
    for work in streams[stream]:
        work()
    streams[stream].clear()
    return (_OK,)


def cudaMemcpyAsync(dst, src, count, kind, stream):
    assert dst in memory and src in memory and count <= min(len(memory[dst]), len(memory[src]))
    streams[stream].append(lambda: ctypes.memmove(dst, src, count) and None)
    return (_OK,)


def cudaStreamBeginCapture(stream, mode):
    if os.environ.get("SRKD_DOUBLE_FAULT") == "no capture":
        return (cudaError_t.cudaErrorStreamCaptureUnsupported,)
    captures[stream] = len(streams[stream])
    counts["captures"] += 1
    return (_OK,)


def cudaStreamEndCapture(stream):
    begun = captures.pop(stream)
    captured, streams[stream][begun:] = streams[stream][begun:], []
    return _OK, captured


def cudaGraphInstantiate(graph, flags):
    counts["graphs"] += 1
    return _OK, list(graph)


def cudaGraphDestroy(graph):
    return (_OK,)


def cudaGraphLaunch(graphExec, stream):
    streams[stream].extend(graphExec)
    counts["replays"] += 1
    return (_OK,)


def cudaGraphExecDestroy(graphExec):
    counts["graphs"] -= 1
    return (_OK,)
