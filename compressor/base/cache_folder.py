"""A folder of expensive results: entries by key, complete or absent, shared by processes, bounded in bytes.

An entry is a folder of files. It is written under a temporary name and then renamed; a second process that needs the
same entry meanwhile waits for it. A mapped file (`map_file`) carries a shared lock: a run that needs space removes the
least recently used entries, and never one that is in use. An entry may also grow in place (`growing_entry`), if its
writer can tell complete data from data that a crash cut short.
"""

from __future__ import annotations

import fcntl
import json
import math
import mmap
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeVar

from compressor.base.context import Note, no_note
from compressor.base.errors import SrkdError, UsageError, one_line, report_unwritable
from compressor.base.files import flush_file
from compressor.base.locks import LockedElsewhere, hold_lock, is_locked

T = TypeVar("T")

DEFAULT_LIMIT = 20_000_000_000

SIZES = "sizes.json"
"""The bytes of each other file of an entry, by its name."""
ENTRIES = ("frames", "images", "teacher")  # what else lies in the folder, such as models of the hub, stays

SPARE_BYTES = 500_000_000
"""Free space left on the disk, in bytes."""

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def default_folder() -> Path:
    """Return $SRKD_CACHE, else srkd in the user's cache folder: $XDG_CACHE_HOME, ~/Library/Caches (macOS), ~/.cache."""
    path = os.environ.get("SRKD_CACHE")
    if path:
        return Path(path).expanduser()
    default = Path("~/Library/Caches" if sys.platform == "darwin" else "~/.cache").expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or default) / "srkd"


def folder_for_files(file: Path) -> Path:
    """Return the folder for files made of a model's: its own, or one of its name here for a model in the cache."""
    return Path(file.parent.name) if file.resolve().is_relative_to(default_folder().resolve()) else file.parent


def parse_bytes(text: str | int) -> int:
    """Read 500MB, 8GB, 1.5 TB or a plain number of bytes; MB = 10^6."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)B?\s*", str(text).upper())
    if match is None:
        raise UsageError(f"cache size {str(text)!r} is not a size: give for example 500MB, 8GB, or 0 to keep nothing")
    size = float(match[1]) * _UNITS[match[2]]
    if not math.isfinite(size):
        raise UsageError(f"{text} is more than any disk has")
    return int(size)


def format_exact_bytes(size: int) -> str:
    """Return a number of bytes as `parse_bytes` reads it, in the largest unit that divides it: 20GB."""
    unit = next((unit for unit in "GMK" if size and size % _UNITS[unit] == 0), None)
    return str(size) if unit is None else f"{size // _UNITS[unit]}{unit}B"


def format_bytes(size: int) -> str:
    """Return a number of bytes for a person, rounded: 1.5 GB, 20 MB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


@dataclass(frozen=True)
class CacheFolder:
    """The entries under `path`, together at most `limit` bytes."""

    path: Path
    limit: int = DEFAULT_LIMIT

    def find(self, key: str, read: Callable[[Path], T], note: Note) -> T | None:
        """Return `read(entry)`; None if the entry is missing or damaged: `read` gets its folder, and may refuse it."""
        entry = self.path / key
        if not entry.is_dir():
            return None
        try:
            with one_line(f"its {SIZES} cannot be read"):
                if json.loads((entry / SIZES).read_bytes()) != _sizes(entry):
                    raise SrkdError("its files are not those that were written")
            value = read(entry)
        except (SrkdError, OSError) as error:
            note(f"{entry} is damaged ({error}): making it again")
            return None
        # Another user's cache can be readable but not writable.
        with suppress(OSError):
            os.utime(entry)
            self.free_space(0)
        return value

    def make(
        self, key: str, read: Callable[[Path], T], write: Callable[[Path], None], size: int, note: Note
    ) -> T | None:
        """Create the entry with `write`, here or in another process, and return `read(entry)`.

        `size` is the most that `write` will need, in bytes. Return None if the entry cannot be stored.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with self._lock_entry(key, note):
                value = self.find(key, read, no_note)
                return value if value is not None else self._make_entry(key, read, write, size, note)
        except OSError as error:
            note(f"nothing is kept in the cache folder {self.path}: {error.strerror or error}")
            return None

    @contextmanager
    def growing_entry(self, key: str, note: Note) -> Iterator[Path]:
        """Yield the folder of an entry that grows in place, to one process at a time; it may be new, or damaged."""
        entry = self.path / key
        with report_unwritable(f"the cache folder {self.path}"):
            self.path.mkdir(parents=True, exist_ok=True)
        with self._lock_entry(key, note):
            entry.mkdir(exist_ok=True)
            os.utime(entry)
            yield entry

    def require_space(self, size: int, what: str) -> None:
        """Free space for `size` more bytes; `what` names their purpose in the error."""
        if not self.free_space(size):
            raise SrkdError(
                f"{what} needs {format_bytes(size)} more in {self.path}, which may hold {format_bytes(self.limit)}: "
                "raise --cache-size"
            )
        free = shutil.disk_usage(self.path).free
        if free < size + SPARE_BYTES:
            raise SrkdError(
                f"{what} needs {format_bytes(size)} more in {self.path}, and the disk has {format_bytes(free)} left"
            )

    def free_space(self, size: int) -> bool:
        """Remove the least recently used entries until `size` more bytes fit; if they cannot, remove none: False."""
        entries = []
        for entry in [path for kind in ENTRIES for path in self.path.glob(f"{kind}-*") if path.is_dir()]:
            if "." not in entry.name:
                with suppress(FileNotFoundError):  # another process may remove it meanwhile
                    entries.append((entry.stat().st_mtime_ns, sum(_sizes(entry).values()), entry))
            elif not is_locked(_lock_of(entry)):  # an unfinished entry of a killed process
                shutil.rmtree(entry, ignore_errors=True)
        excess = sum(entry_bytes for _, entry_bytes, _ in entries) + size - self.limit
        unneeded = []
        for _, entry_bytes, entry in sorted(entries):
            if excess <= 0:
                break
            if not _is_in_use(entry):
                unneeded.append(entry)
                excess -= entry_bytes
        if excess > 0 and size:
            return False
        for entry in unneeded:
            _remove(entry)
        return True

    def _make_entry(
        self, key: str, read: Callable[[Path], T], write: Callable[[Path], None], size: int, note: Note
    ) -> T | None:
        try:
            self.require_space(size, "the new entry")
        except SrkdError as error:
            note(f"nothing is kept: {error}")
            return None
        staging = Path(tempfile.mkdtemp(prefix=f"{key}.making-", dir=self.path))
        try:
            write(staging)
            (staging / SIZES).write_text(json.dumps(_sizes(staging)), encoding="utf-8")
            for file in staging.iterdir():
                flush_file(file)
            entry = self.path / key
            if entry.exists():
                _remove(entry)
            staging.rename(entry)
            return read(entry)
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    @contextmanager
    def _lock_entry(self, key: str, note: Note) -> Iterator[None]:
        """Let one process at a time make an entry."""
        path = _lock_of(self.path / key)
        with ExitStack() as stack:
            try:
                stack.enter_context(hold_lock(path))
            except LockedElsewhere:
                note("another process is making the same entry of the cache: waiting for it")
                stack.enter_context(hold_lock(path, wait_seconds=math.inf))
            yield


def map_file(file: IO[bytes]) -> mmap.mmap:
    """Return a file's bytes, read on demand; the file counts as in use until the mapping is gone.

    The mapping is private: writes to it never reach the file. Torch uses it without a copy.
    """
    # The mapping keeps a duplicate of the descriptor, and this lock with it, which many processes share.
    with suppress(OSError):  # a file system without locks
        fcntl.flock(file.fileno(), fcntl.LOCK_SH)
    size = os.fstat(file.fileno()).st_size
    # Without NORESERVE a system can refuse a private mapping larger than its memory.
    flags = mmap.MAP_PRIVATE | getattr(mmap, "MAP_NORESERVE", 0)
    return mmap.mmap(file.fileno(), size, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)


def _lock_of(entry: Path) -> Path:
    """The lock of an entry, or of one under a temporary name."""
    return entry.with_name(f"{entry.name.partition('.')[0]}.lock")


def _is_in_use(entry: Path) -> bool:
    """Return True if a process writes the entry, or has mapped a file of it."""
    if is_locked(_lock_of(entry)):
        return True
    try:
        for path in entry.iterdir():
            with open(path, "r+b") as file:
                fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:  # others: removed, or on a file system without locks
        return isinstance(error, (BlockingIOError, PermissionError))
    return False


def _remove(entry: Path) -> None:
    """Rename the entry, which is atomic, then delete it; existing mappings stay valid."""
    trash = Path(tempfile.mkdtemp(prefix=f"{entry.name}.removing-", dir=entry.parent))
    with suppress(FileNotFoundError):
        entry.rename(trash / entry.name)
    shutil.rmtree(trash, ignore_errors=True)


def _sizes(entry: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in entry.iterdir() if path.name != SIZES}
