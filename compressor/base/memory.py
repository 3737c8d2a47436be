"""Freed memory that a process keeps for its next step, instead of returning it to the system."""

from __future__ import annotations

import ctypes
import os
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Parameters of glibc's mallopt (malloc.h)."""


def keep_freed_memory() -> bool:
    """Let glibc keep what is freed, where it is the allocator and no MALLOC_ variable is set; return True if it does.

    By default every large tensor is mapped anew, so that the kernel clears each of its pages at first touch, and
    unmapped when it dies: a tenth to a fifth of a training step on a CPU, half of a large picture's time
    (docs/speed.md). The memory is held until the process ends, so a program that only imports srkd decides for itself.
    """
    if not sys.platform.startswith("linux") or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # another C library
        return False
    # All from the heap, of which nothing is given back: both take 1 for success.
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, -1))
