"""A GPU for the double of torch: its memory is host memory, and nothing happens before the stream is waited
for, so that whoever does not synchronise reads old values.

SRKD_DOUBLE_GPU     name|major|minor, NVIDIA H200|9|0 by default
SRKD_DOUBLE_GPUS    how many there are, 1 by default
SRKD_DOUBLE_FAULT   "cuda memory" or "no capture"
"""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Callable

Work = Callable[[], object]
memory: weakref.WeakValueDictionary[int, ctypes.Array] = weakref.WeakValueDictionary()
"""Address → what is allocated and still referenced."""
streams: dict[int, list[Work]] = {}
counts = {"replays": 0, "captures": 0}
graphs: weakref.WeakSet[Graph] = weakref.WeakSet()


class Graph:
    """Recorded work."""

    def __init__(self, work: list[Work]) -> None:
        self.work = work
        graphs.add(self)


def fault(name: str) -> bool:
    return os.environ.get("SRKD_DOUBLE_FAULT") == name


def gpu_count() -> int:
    return int(os.environ.get("SRKD_DOUBLE_GPUS", "1"))


def gpu() -> tuple[str, int, int]:
    name, major, minor = os.environ.get("SRKD_DOUBLE_GPU", "NVIDIA H200|9|0").split("|")
    return name, int(major), int(minor)


def allocate(size: int) -> ctypes.Array:
    block = (ctypes.c_uint8 * size)()
    memory[ctypes.addressof(block)] = block
    return block


def new_stream() -> int:
    handle = 1000 + len(streams)
    streams[handle] = []
    return handle


def synchronise(handle: int) -> None:
    for work in streams[handle]:
        work()
    streams[handle].clear()
