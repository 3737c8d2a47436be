"""Memory of a command: freed memory is kept for the next step, and cycles of objects are looked for less often."""

from __future__ import annotations

import ctypes
import gc
import os
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Parameters of glibc's mallopt (malloc.h)."""

NEW_OBJECTS = 20_000
"""Objects after which Python looks for unreachable cycles among them; its own default is 700 to 2,000, by version."""


def keep_freed_memory() -> bool:
    """Let glibc keep freed memory, if it is the allocator and no MALLOC_ variable is set; return True if it does.

    By default every large tensor is mapped anew, so that the kernel clears each of its pages at first touch, and
    unmapped when it is freed: a tenth to a fifth of a training step on a CPU, half of the time of a large picture
    (docs/use/speed.md). The memory is kept until the process ends, so a program that only imports srkd decides for
    itself.
    """
    if not sys.platform.startswith("linux") or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # another C library
        return False
    # Allocate everything on the heap, and return none of it to the system. mallopt returns 1 for success.
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, -1))


def collect_less_often() -> None:
    """Let Python look for unreachable cycles after `NEW_OBJECTS` new objects.

    With torch and its exporter loaded there are 300,000 objects, and Python walks through them again and again while
    graphs are created: a quarter of the CPU time of an export, a sixth of a profile, a twentieth of a short run.
    Objects outside cycles, such as tensors, are freed at once as before.
    """
    gc.set_threshold(NEW_OBJECTS, *gc.get_threshold()[1:])
