"""Locks between processes: files that `filelock` locks in the kernel, so that a lock ends with its process."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from compressor.base.errors import SrkdError


class LockedElsewhere(SrkdError):
    """Another process holds a lock: `owner` names it for a person."""

    def __init__(self, path: Path, owner: str) -> None:
        super().__init__(f"{path} is locked by {owner}: wait until it ends")
        self.owner = owner


@contextmanager
def hold_lock(path: Path, *, wait_seconds: float = 0.0) -> Iterator[None]:
    """Hold the lock file at `path` in the block, and remove it at the end; its text names the process.

    `wait_seconds` is the time for another process to release it, after which `LockedElsewhere` is raised.
    """
    lock: BaseFileLock = FileLock(path)
    try:
        lock.acquire(timeout=wait_seconds)
    except Timeout:
        text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        raise LockedElsewhere(path, text.strip()[:300] or "another process") from None
    try:
        if not isinstance(lock, SoftFileLock):  # of a file system without locks, which has a text of its own
            path.write_text(f"process {os.getpid()} on {socket.gethostname()}\n", encoding="utf-8")
        yield
    finally:
        # While it is locked: a process that waits for it sees that, and makes a new file.
        with suppress(OSError):
            path.unlink()
        lock.release()


def is_locked(path: Path) -> bool:
    if not path.exists():
        return False
    try:
        with hold_lock(path):
            return False
    except LockedElsewhere:
        return True
