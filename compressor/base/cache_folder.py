"""A folder of things that were costly to make: entries by key, whole or absent, shared by processes, bounded in bytes.

An entry is a folder of files. It is made beside its place and renamed into it; a second process that wants the same
entry meanwhile waits for it. Whoever maps an entry's files holds a shared lock on them (`mapped`), so that another run
which needs room removes the entries used longest ago, and never one that is in use. An entry may also grow in place
(`growing`), if what writes it can tell whole from torn.
"""

from __future__ import annotations

import errno
import mmap
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeVar

from compressor.base.context import Note, no_note
from compressor.base.errors import SrkdError, UsageError

if sys.platform != "win32":
    import fcntl

T = TypeVar("T")

DEFAULT_LIMIT = 20_000_000_000
SPARE = 500_000_000
"""Bytes of a disk that are left free."""

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def default_folder() -> Path:
    """$SRKD_CACHE, else srkd in the user's cache folder ($XDG_CACHE_HOME, ~/Library/Caches on macOS, ~/.cache)."""
    chosen = os.environ.get("SRKD_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    usual = Path("~/Library/Caches" if sys.platform == "darwin" else "~/.cache").expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or usual) / "srkd"


def bytes_of(text: str | int) -> int:
    """500MB, 8GB, 1.5 TB or a plain number of bytes; MB = 10^6."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?B?)\s*", str(text).upper())
    unit = match[2] if match else ""
    unit = unit + "B" if unit in ("K", "M", "G", "T") else unit
    if match is None:
        raise UsageError(f"cache size {str(text)!r} is no size: give for example 500MB, 8GB, or 0 to keep nothing")
    return int(float(match[1]) * _UNITS[unit])


def told(size: int) -> str:
    """Bytes for a person."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


@dataclass(frozen=True)
class CacheFolder:
    """Entries under `path`, together at most `limit` bytes."""

    path: Path
    limit: int = DEFAULT_LIMIT

    def find(self, key: str, read: Callable[[Path], T], announce: Note) -> T | None:
        """`read` of the entry, or None where there is no sound one.

        `read` gets the entry's folder, maps its files, and raises SrkdError on damage.
        """
        entry = self.path / key
        try:
            found = read(entry)
        except (FileNotFoundError, NotADirectoryError):
            if entry.is_dir():
                announce(f"{entry} lacks a file: making it anew")
            return None
        except (SrkdError, OSError) as error:
            announce(f"{entry} is damaged ({error}): making it anew")
            return None
        # Another user's cache can be read and not marked.
        with suppress(OSError):
            os.utime(entry)
            self.make_room(0)
        return found

    def make(
        self, key: str, read: Callable[[Path], T], write: Callable[[Path], None], size: int, announce: Note
    ) -> T | None:
        """`read` of the entry after `write` has made it, here or in another process; None where it can't be kept.

        `size` is what `write` will need at most, in bytes.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with self._alone(key, announce):
                found = self.find(key, read, no_note)
                return found if found is not None else self._made(key, read, write, size, announce)
        except OSError as error:
            announce(f"nothing is kept in the cache folder {self.path}: {error.strerror or error}")
            return None

    @contextmanager
    def growing(self, key: str, announce: Note) -> Iterator[Path]:
        """The folder of an entry that grows in place, for one process at a time; it may be new, and it may be damaged.

        Whoever writes maps a file of it first, so that it counts as in use.
        """
        entry = self.path / key
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SrkdError(f"cannot write the cache folder {self.path}: {error.strerror or error}") from error
        with self._alone(key, announce):
            entry.mkdir(exist_ok=True)
            os.utime(entry)
            yield entry

    def require_room(self, size: int, what: str) -> None:
        """Make room for `size` more bytes, or one line that says what they are for."""
        if not self.make_room(size):
            raise SrkdError(
                f"{what} needs {told(size)} more in {self.path}, which may hold {told(self.limit)}: raise --cache-size"
            )
        free = shutil.disk_usage(self.path).free
        if free < size + SPARE:
            raise SrkdError(f"{what} needs {told(size)} more in {self.path}, and the disk has {told(free)} left")

    def make_room(self, size: int) -> bool:
        """Remove entries used longest ago until `size` more bytes fit; False, and nothing removed, where they can't."""
        self._sweep()
        entries = sorted(self._entries(), key=lambda entry: entry.stat().st_mtime_ns)
        over = sum(_bytes(entry) for entry in entries) + size - self.limit
        victims = []
        for entry in entries:
            if over <= 0:
                break
            if not _in_use(entry):
                victims.append(entry)
                over -= _bytes(entry)
        if over > 0 and size:
            return False
        for entry in victims:
            _remove(entry)
        return True

    def _made(
        self, key: str, read: Callable[[Path], T], write: Callable[[Path], None], size: int, announce: Note
    ) -> T | None:
        if not self.make_room(size):
            announce(
                f"{told(size)} do not fit into {self.path} beside what is in use: --cache-size is {told(self.limit)}"
            )
            return None
        free = shutil.disk_usage(self.path).free
        if free < size + SPARE:
            raise OSError(errno.ENOSPC, f"{told(size)} are needed and {told(free)} free")
        staging = Path(tempfile.mkdtemp(prefix=f"{key}.making-", dir=self.path))
        try:
            write(staging)
            for file in staging.iterdir():
                _flush(file)
            entry = self.path / key
            if entry.exists():
                _remove(entry)
            staging.rename(entry)
            return read(entry)
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def _entries(self) -> list[Path]:
        return [path for path in self.path.iterdir() if path.is_dir() and "." not in path.name]

    def _sweep(self) -> None:
        """Remove what a killed process left half made."""
        for left in [path for path in self.path.glob("*.*-*") if path.is_dir()]:
            if _abandoned(self.path / f"{left.name.partition('.')[0]}.lock"):
                shutil.rmtree(left, ignore_errors=True)

    @contextmanager
    def _alone(self, key: str, announce: Note) -> Iterator[None]:
        """One process at a time makes an entry; a lock dies with its process."""
        path = self.path / f"{key}.lock"
        while True:
            handle = open(path, "a")  # noqa: SIM115
            if not _lock(handle.fileno(), shared=False, wait=False):
                announce("another process is making the same entry of the cache: waiting for it")
                _lock(handle.fileno(), shared=False, wait=True)
            # Its holder removed the file when it was done: whoever waited holds a lock on nothing.
            if path.exists() and os.path.samestat(path.stat(), os.fstat(handle.fileno())):
                break
            handle.close()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            handle.close()


def mapped(file: IO[bytes]) -> mmap.mmap:
    """A file's bytes in memory on demand; the file counts as in use until the mapping is gone.

    Private: what is written there never reaches the file. Torch takes such a mapping without a copy.
    """
    # The mapping keeps a duplicate of the descriptor, and the lock with it.
    _lock(file.fileno(), shared=True, wait=True)
    size = os.fstat(file.fileno()).st_size
    if sys.platform == "win32":
        return mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY)
    # Without NORESERVE a system can refuse to map privately more than it has memory.
    flags = mmap.MAP_PRIVATE | getattr(mmap, "MAP_NORESERVE", 0)
    return mmap.mmap(file.fileno(), size, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)


def _lock(descriptor: int, *, shared: bool, wait: bool, unknown: bool = True) -> bool:
    """Whether the lock is ours now; `unknown` where a file system knows no locks."""
    if sys.platform == "win32":
        return unknown
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:
        return unknown
    return True


def _abandoned(lock: Path) -> bool:
    """Whether no process holds this lock: it is removed when its holder is done."""
    try:
        with open(lock, "r+b") as file:
            return _lock(file.fileno(), shared=False, wait=False, unknown=False)
    except FileNotFoundError:
        return True


def _in_use(entry: Path) -> bool:
    for path in entry.iterdir():
        try:
            with open(path, "r+b") as file:
                if not _lock(file.fileno(), shared=False, wait=False):
                    return True
        except PermissionError:
            return True
    return False


def _remove(entry: Path) -> None:
    """Out of sight at once, then away; whoever still maps it keeps what is mapped."""
    aside = Path(tempfile.mkdtemp(prefix=f"{entry.name}.removing-", dir=entry.parent))
    with suppress(FileNotFoundError):
        entry.rename(aside / entry.name)
    shutil.rmtree(aside, ignore_errors=True)


def _bytes(entry: Path) -> int:
    return sum(path.stat().st_size for path in entry.iterdir())


def _flush(path: Path) -> None:
    with open(path, "rb") as written:
        os.fsync(written.fileno())
