"""What a process forbids itself before it opens an untrusted file: a jail (Linux), and limits of time and memory.

Landlock, from Linux 5.13 on, forbids writing and creating files, and reading any but those of Python and of the system.
A filter of system calls forbids the network, other processes, and changes of a file's mode, owner, times and
attributes. Neither needs privileges, and neither can be undone. Time, memory and file size are POSIX limits.
"""

from __future__ import annotations

import ctypes
import math
import os
import platform
import resource
import signal
import struct
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from compressor.base.choices import MOST_LIMITS
from compressor.base.errors import UsageError

MB = 10**6


@dataclass(frozen=True)
class ResourceLimits:
    """Upper limits on the resources of a process that opens an untrusted file."""

    seconds: float = 60.0
    memory_mb: int = 4000
    """Private memory; mapped files, such as libraries, do not count."""
    output_mb: int = 64
    """Size of each file that the process writes, and of its answer."""
    readable: tuple[str, ...] = ()
    """Files that the process may read besides those of Python and of the system."""
    writable: tuple[str, ...] = ()
    """Devices that the process may use."""
    is_jailed: bool = True
    """False for a file that the user trusts."""

    def scaled(self, factor: float) -> ResourceLimits:
        """Return the limits multiplied by `factor`."""
        if not 1 <= factor <= MOST_LIMITS:
            raise UsageError(f"limits={factor!r} is not a factor from 1 to {MOST_LIMITS}")
        seconds, memory, output = self.seconds * factor, round(self.memory_mb * factor), round(self.output_mb * factor)
        return replace(self, seconds=seconds, memory_mb=memory, output_mb=output)


USUAL_LIMITS = ResourceLimits()


def restrict_process(limits: ResourceLimits) -> None:
    """Set the limits for this process, and jail it where the system can; all of it irrevocably.

    The process must have no other threads yet: the jail holds for the calling thread and those that it starts.
    """
    # On Linux DATA is private memory; AS would also count address space that libraries reserve and never touch.
    memory_kind = resource.RLIMIT_DATA if sys.platform == "linux" else resource.RLIMIT_AS
    rows = [
        (memory_kind, limits.memory_mb * MB),
        (resource.RLIMIT_FSIZE, limits.output_mb * MB),
        (resource.RLIMIT_CORE, 0),
    ]
    if math.isfinite(limits.seconds):
        # CPU time of the process on all cores; the parent also limits the elapsed time.
        rows.append((resource.RLIMIT_CPU, int(limits.seconds * (os.cpu_count() or 1)) + 1))
    for kind, most in rows:
        try:
            resource.setrlimit(kind, (most, most))
        except (ValueError, OSError):  # macOS refuses some limits, and a lower one may already be set
            continue
    if limits.is_jailed and jail_obstacle() is None:
        tempfile.gettempdir()  # libraries want its name, which is found by writing a file there
        _enter_jail(limits)


def end_with_parent() -> None:
    """Let the kernel end this process when its parent ends, even if the parent was killed (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


# No library here wraps Landlock's system calls (linux/landlock.h; `man 7 landlock`).
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
ASK_VERSION = 1
RULE_PATH_BENEATH = 1
PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 22, 38
WRITE_FILE, READ_FILE, READ_FOLDER = 1 << 1, 1 << 2, 1 << 3
FIRST_RIGHTS, REFER, TRUNCATE = (1 << 13) - 1, 1 << 13, 1 << 14
"""The rights of Landlock's first version: executing, writing, reading, removing and creating; two later ones."""
CAPABILITY_VERSION = 0x20080522

SYSTEM_FOLDERS = ("/usr", "/lib", "/lib32", "/lib64", "/proc", "/sys", "/nix/store")
SYSTEM_FILES = ("/etc/ld.so.cache", "/etc/localtime", "/etc/nsswitch.conf", "/etc/passwd", "/dev/urandom", "/dev/zero")


class _Ruleset(ctypes.Structure):
    _fields_ = [("handled_access_fs", ctypes.c_uint64)]


class _PathRule(ctypes.Structure):
    _pack_ = 1
    _fields_ = [("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32)]


class _Filter(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("program", ctypes.c_char_p)]


def landlock_version() -> int:
    """Return the version of Landlock that the kernel offers; 0 if it offers none."""
    if sys.platform != "linux":
        return 0
    version: int = ctypes.CDLL(None).syscall(CREATE_RULESET, None, ctypes.c_size_t(0), ASK_VERSION)
    return max(0, version)


def jail_obstacle() -> str | None:
    """Return why this system cannot jail a process, or None."""
    if platform.machine() not in MACHINES:
        return f"a {platform.machine()} processor"
    return None if landlock_version() else "a kernel without Landlock (Linux 5.13 has it)"


def _enter_jail(limits: ResourceLimits) -> None:
    """Jail this process; OSError if a step fails, as an open jail is worse than none."""
    system: Any = ctypes.CDLL(None, use_errno=True)

    def require(result: int, step: str) -> int:
        if result < 0:
            raise OSError(ctypes.get_errno(), f"the kernel refused {step}")
        return result

    version = landlock_version()
    rights = FIRST_RIGHTS | (REFER if version >= 2 else 0) | (TRUNCATE if version >= 3 else 0)
    rules = _Ruleset(rights)
    size = ctypes.c_size_t(ctypes.sizeof(rules))
    ruleset = require(system.syscall(CREATE_RULESET, ctypes.byref(rules), size, 0), "a Landlock ruleset")
    for path, allowed in _allowed(limits):
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            rule = _PathRule(allowed & rights, file)
            refused = system.syscall(ADD_RULE, ruleset, RULE_PATH_BENEATH, ctypes.byref(rule), 0)
            require(refused, f"a Landlock rule for {path}")
        finally:
            os.close(file)
    # Without capabilities root changes no clock and loads no module; without new privileges no program has them either.
    header, nothing = struct.pack("=Ii", CAPABILITY_VERSION, 0), bytes(24)
    require(system.capset(header, nothing), "to drop the capabilities")
    require(system.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "to refuse new privileges")
    require(system.syscall(RESTRICT_SELF, ruleset, 0), "Landlock")
    os.close(ruleset)
    program = _filter_program()
    calls = _Filter(len(program) // INSTRUCTION.size, program)
    require(system.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(calls), 0, 0), "a filter of system calls")


def _allowed(limits: ResourceLimits) -> Iterator[tuple[str, int]]:
    """Yield the existing files and folders that a jailed process may open, and its rights there."""
    libraries = os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep)
    folders = {sys.prefix, sys.base_prefix, *sys.path, *libraries, *SYSTEM_FOLDERS}
    for path in (*folders, *SYSTEM_FILES, *limits.readable):
        if path and Path(path).exists():
            yield path, READ_FILE | (READ_FOLDER if Path(path).is_dir() else 0)
    for path in (os.devnull, *limits.writable):
        yield path, READ_FILE | WRITE_FILE | TRUNCATE


# A seccomp filter is a program of the kernel's packet filter (`man 2 seccomp`) that reads struct seccomp_data.
SECCOMP_MODE_FILTER = 2
INSTRUCTION = struct.Struct("=HBBI")
LOAD, RETURN, EQUAL, AT_LEAST, ANY_BIT = 0x20, 0x06, 0x15, 0x35, 0x45
NUMBER, MACHINE, ARGUMENTS = 0, 4, (16, 24, 32, 40)
"""Offsets of the call's number, of the machine's, and of the lower halves of the first arguments."""
ALLOW, KILL, ERROR = 0x7FFF0000, 0x80000000, 0x00050000
NOT_PERMITTED, NOT_IMPLEMENTED = ERROR | 1, ERROR | 38
MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""The column in the tables below, and the number in AUDIT_ARCH_* (linux/audit.h)."""
FIRST_UNKNOWN = 424
"""Calls from this number on, which all machines share, do not exist for a jailed process: libraries do without those of
Linux 5.1 and later, such as io_uring and clone3."""
CLONE, TGKILL, PRLIMIT, MMAP = (56, 220), (234, 131), (302, 261), (9, 222)
CLONE_THREAD, MAP_SHARED, MAP_ANONYMOUS = 0x10000, 0x01, 0x20
FORBIDDEN = """
socket 41 198
socketpair 53 199
kill 62 129
tkill 200 130
rt_sigqueueinfo 129 138
rt_tgsigqueueinfo 297 240
fork 57 -
vfork 58 -
execve 59 221
execveat 322 281
chmod 90 -
fchmod 91 52
fchmodat 268 53
chown 92 -
fchown 93 55
lchown 94 -
fchownat 260 54
utime 132 -
utimes 235 -
futimesat 261 -
utimensat 280 88
setxattr 188 5
lsetxattr 189 6
fsetxattr 190 7
removexattr 197 14
lremovexattr 198 15
fremovexattr 199 16
truncate 76 45
ftruncate 77 46
memfd_create 319 279
shmget 29 194
shmat 30 196
shmctl 31 195
semget 64 190
semop 65 193
semtimedop 220 192
semctl 66 191
msgget 68 186
msgsnd 69 189
msgrcv 70 188
msgctl 71 187
mq_open 240 180
mq_unlink 241 181
unshare 272 97
setns 308 268
bpf 321 280
perf_event_open 298 241
userfaultfd 323 282
add_key 248 217
request_key 249 218
keyctl 250 219
"""
"""System calls that a jailed process must not make, with their numbers on x86-64 and on 64-bit Arm."""


def _filter_program() -> bytes:
    """Return the filter of system calls: what it does not forbid, it allows."""
    column, machine = MACHINES[platform.machine()]
    code: list[tuple[int, int, int, int]] = []

    def unless(test: int, value: int, skipped: int) -> None:
        """Skip some instructions unless the value that was loaded last passes a test."""
        code.append((test, 0, skipped, value))

    def load(offset: int) -> None:
        code.append((LOAD, 0, 0, offset))

    def answer(value: int) -> None:
        code.append((RETURN, 0, 0, value))

    load(MACHINE)
    code.append((EQUAL, 1, 0, machine))
    answer(KILL)
    load(NUMBER)
    unless(AT_LEAST, FIRST_UNKNOWN, 1)
    answer(NOT_IMPLEMENTED)
    for row in FORBIDDEN.split("\n")[1:-1]:
        number = row.split()[1 + column]
        if number != "-":
            unless(EQUAL, int(number), 1)
            answer(NOT_PERMITTED)
    # It may start threads, and signal itself, as abort() does.
    for call, test, expected in ((CLONE, ANY_BIT, CLONE_THREAD), (TGKILL, EQUAL, os.getpid())):
        unless(EQUAL, call[column], 4)
        load(ARGUMENTS[0])
        unless(test, expected, 1)
        answer(ALLOW)
        answer(NOT_PERMITTED)
    # It may read limits, but set none, not even those of other processes: the new limit must be a null pointer.
    unless(EQUAL, PRLIMIT[column], 6)
    load(ARGUMENTS[2])
    unless(EQUAL, 0, 3)
    load(ARGUMENTS[2] + 4)
    unless(EQUAL, 0, 1)
    answer(ALLOW)
    answer(NOT_PERMITTED)
    # Anonymous memory that is shared would not count as private.
    unless(EQUAL, MMAP[column], 5)
    load(ARGUMENTS[3])
    unless(ANY_BIT, MAP_ANONYMOUS, 2)
    unless(ANY_BIT, MAP_SHARED, 1)
    answer(NOT_PERMITTED)
    answer(ALLOW)
    answer(ALLOW)
    return b"".join(INSTRUCTION.pack(*instruction) for instruction in code)
