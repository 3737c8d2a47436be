"""Limits on what a process may use and change, which it sets for itself before it opens a stranger's file.

Time, memory and the size of files are limits of POSIX. On Linux from 5.13 on Landlock adds that no file is written,
made, removed or executed, and from 6.7 on that no TCP connection is made or taken. None of it needs privileges.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compressor.base.choices import MOST_LIMITS
from compressor.base.errors import UsageError

MB = 10**6


@dataclass(frozen=True)
class Limits:
    """The most that a process may use."""

    seconds: float = 60.0
    memory_mb: int = 4000
    """Private memory; files that are mapped, libraries among them, do not count."""
    output_mb: int = 64
    """Each file that it writes, and its answer."""

    def scaled(self, factor: float) -> Limits:
        """Return limits that are `factor` times as wide."""
        if not 1 <= factor <= MOST_LIMITS:
            raise UsageError(f"limits={factor!r} is not a factor from 1 to {MOST_LIMITS}")
        return Limits(self.seconds * factor, round(self.memory_mb * factor), round(self.output_mb * factor))


USUAL_LIMITS = Limits()


def restrict_process(limits: Limits, writable: Sequence[str] = (os.devnull,)) -> tuple[str, ...]:
    """Set the limits for this process and for good; where the kernel can tell, only `writable` files and what lies in
    `writable` folders can be written.

    Return what now holds, of "memory", "time", "output", "files" and "network".
    """
    # On Linux DATA is private memory; AS would count the address space too that libraries reserve and never touch.
    memory_kind = resource.RLIMIT_DATA if sys.platform == "linux" else resource.RLIMIT_AS
    # The whole process' time on all cores; whoever started it also looks at the clock.
    cpu_seconds = int(limits.seconds * (os.cpu_count() or 1)) + 1
    rows = (
        ("memory", memory_kind, limits.memory_mb * MB),
        ("time", resource.RLIMIT_CPU, cpu_seconds),
        ("output", resource.RLIMIT_FSIZE, limits.output_mb * MB),
        ("core", resource.RLIMIT_CORE, 0),
    )
    held = []
    for name, kind, most in rows:
        try:
            resource.setrlimit(kind, (most, most))
        except (ValueError, OSError):  # macOS refuses some, and a lower limit may be set already
            continue
        held += [] if name == "core" else [name]
    return (*held, *_forbid_changes(writable))


def end_with_parent() -> None:
    """Let the kernel end this process when the one that started it is gone, even if that was killed (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


# Landlock by its system calls, as no library here wraps them (linux/landlock.h; `man 7 landlock`).
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
ASK_VERSION = 1
RULE_PATH_BENEATH = 1
PR_SET_NO_NEW_PRIVS = 38
PR_SET_PDEATHSIG = 1
EXECUTE, WRITE_FILE = 1 << 0, 1 << 1
REMOVE_AND_MAKE = sum(1 << bit for bit in range(4, 13))
REFER, TRUNCATE = 1 << 13, 1 << 14
BIND_AND_CONNECT_TCP = 0b11


class _Ruleset(ctypes.Structure):
    _fields_ = [("handled_access_fs", ctypes.c_uint64), ("handled_access_net", ctypes.c_uint64)]


class _PathRule(ctypes.Structure):
    _pack_ = 1
    _fields_ = [("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32)]


def _forbid_changes(writable: Sequence[str]) -> tuple[str, ...]:
    """Apply Landlock as far as this kernel has it; return what it now holds."""
    if sys.platform != "linux":
        return ()
    system: Any = ctypes.CDLL(None, use_errno=True)
    version = system.syscall(CREATE_RULESET, None, ctypes.c_size_t(0), ASK_VERSION)
    if version < 1:
        return ()
    rights = EXECUTE | WRITE_FILE | REMOVE_AND_MAKE
    rights |= (REFER if version >= 2 else 0) | (TRUNCATE if version >= 3 else 0)
    has_network = version >= 4
    rules = _Ruleset(rights, BIND_AND_CONNECT_TCP if has_network else 0)
    # Kernels before 6.7 know the first field only.
    size = ctypes.sizeof(rules) if has_network else ctypes.sizeof(ctypes.c_uint64)
    ruleset = system.syscall(CREATE_RULESET, ctypes.byref(rules), ctypes.c_size_t(size), 0)
    if ruleset < 0:
        return ()
    try:
        for path in writable:
            file = os.open(path, os.O_RDONLY)
            allowed = rights & ~EXECUTE if Path(path).is_dir() else rights & (WRITE_FILE | TRUNCATE)
            rule = _PathRule(allowed, file)
            refused = system.syscall(ADD_RULE, ruleset, RULE_PATH_BENEATH, ctypes.byref(rule), 0)
            os.close(file)
            if refused:
                return ()
        if system.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or system.syscall(RESTRICT_SELF, ruleset, 0):
            return ()
    finally:
        os.close(ruleset)
    return ("files", "network") if has_network else ("files",)
