"""Limits that a process sets for itself before it opens an untrusted file: on resources, files and network.

Time, memory and file size are POSIX limits. From Linux 5.13 on, Landlock forbids writing, creating, removing and
executing files, and from 6.7 on, opening and accepting TCP connections. None of it needs privileges.
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
class ResourceLimits:
    """Upper limits on the resources of a process."""

    seconds: float = 60.0
    memory_mb: int = 4000
    """Private memory; mapped files, such as libraries, do not count."""
    output_mb: int = 64
    """Size of each file that the process writes, and of its answer."""

    def scaled(self, factor: float) -> ResourceLimits:
        """Return the limits multiplied by `factor`."""
        if not 1 <= factor <= MOST_LIMITS:
            raise UsageError(f"limits={factor!r} is not a factor from 1 to {MOST_LIMITS}")
        return ResourceLimits(self.seconds * factor, round(self.memory_mb * factor), round(self.output_mb * factor))


USUAL_LIMITS = ResourceLimits()


def restrict_process(limits: ResourceLimits, writable: Sequence[str] = (os.devnull,)) -> tuple[str, ...]:
    """Set the limits for this process, irrevocably; with Landlock only the `writable` files and folders can be written.

    Return the names of the limits in force, out of "memory", "time", "output", "files" and "network".
    """
    # On Linux DATA is private memory; AS would also count address space that libraries reserve and never touch.
    memory_kind = resource.RLIMIT_DATA if sys.platform == "linux" else resource.RLIMIT_AS
    # CPU time of the process on all cores; the parent also limits the elapsed time.
    cpu_seconds = int(limits.seconds * (os.cpu_count() or 1)) + 1
    rows = (
        ("memory", memory_kind, limits.memory_mb * MB),
        ("time", resource.RLIMIT_CPU, cpu_seconds),
        ("output", resource.RLIMIT_FSIZE, limits.output_mb * MB),
        ("core", resource.RLIMIT_CORE, 0),
    )
    names = []
    for name, kind, most in rows:
        try:
            resource.setrlimit(kind, (most, most))
        except (ValueError, OSError):  # macOS refuses some limits, and a lower one may already be set
            continue
        names += [] if name == "core" else [name]
    return (*names, *_forbid_changes(writable))


def end_with_parent() -> None:
    """Let the kernel end this process when its parent ends, even if the parent was killed (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


# Landlock's system calls, which no library here wraps (linux/landlock.h; `man 7 landlock`).
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
    """Apply Landlock as far as this kernel supports it; return the restrictions in force: "files", "network"."""
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
