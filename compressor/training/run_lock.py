"""The lock on a run folder: only one run writes to it at a time.

It is a kernel lock (flock) on a file in the folder, so that it ends with its process, even if that is killed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from compressor.base.context import Context
from compressor.base.errors import SrkdError
from compressor.base.files import is_file_of, unwritable_folder
from compressor.training.run_folder import LOCK, remove_leftovers

WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL)
"""Errors of file systems without locks."""
LOOK_SECONDS = 0.5
"""Time between two looks at a lock that another process holds."""


@contextmanager
def lock_run(run: Path, context: Context, option: str = "--out", *, wait_seconds: float = 0.0) -> Iterator[None]:
    """Hold the lock on a run folder within the block; the folder is created, and removed again if it stays empty.

    The leading process takes the lock for all processes of its run. `option` is the option that named the folder, for
    the error if it cannot be written. `wait_seconds` is the time for another process to release it.
    """
    processes = context.processes

    def take() -> _Lock | None:
        return _Lock.take(run, option, wait_seconds) if processes.is_leader else None

    lock = processes.run_on_all(take)
    try:
        if lock is not None:
            if not lock.is_held:
                context.note(f"{run} is on a file system without locks: do not start this run a second time")
            remove_leftovers(run)
        yield
    finally:
        if lock is not None:
            lock.release()


class _Lock:
    """An open lock file; `folders` were created for it, the outermost first."""

    def __init__(self, path: Path, descriptor: int, folders: list[Path], *, is_held: bool) -> None:
        self.path, self.descriptor, self.folders, self.is_held = path, descriptor, folders, is_held

    @classmethod
    def take(cls, run: Path, option: str, wait_seconds: float = 0.0) -> _Lock:
        deadline = time.monotonic() + wait_seconds
        try:
            folders = [folder for folder in (*reversed(run.parents), run) if not folder.exists()]
            run.mkdir(parents=True, exist_ok=True)
            while True:
                try:
                    lock = cls._open(run / LOCK, folders, run)
                except SrkdError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(LOOK_SECONDS)
                    continue
                if lock is not None:
                    return lock
        except OSError as error:
            raise unwritable_folder(run, option, error) from error

    @classmethod
    def _open(cls, path: Path, folders: list[Path], run: Path) -> _Lock | None:
        """Return the lock; None if its file was removed by the previous holder."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            is_held = True
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                owner = os.pread(descriptor, 300, 0).decode("utf-8", "replace").strip() or "another process"
                raise SrkdError(
                    f"{run} is being written by {owner}: wait until that run ends, or end it with Ctrl-C there"
                ) from None
            except OSError as error:
                if error.errno not in WITHOUT_LOCKS:
                    raise
                is_held = False
            if is_held and not is_file_of(descriptor, path):
                os.close(descriptor)
                return None
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        except BaseException:
            os.close(descriptor)
            raise
        return cls(path, descriptor, folders, is_held=is_held)

    def release(self) -> None:
        """Remove the lock file while it is still locked, and the created folders if they are empty."""
        with suppress(OSError):  # if the folder is no longer writable, the lock still ends with the descriptor
            self.path.unlink(missing_ok=True)
            for folder in reversed(self.folders):
                folder.rmdir()
        os.close(self.descriptor)
