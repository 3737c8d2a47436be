"""Atomic writing and hashing of files. A file that cannot be written is reported in one line."""

from __future__ import annotations

import glob
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from compressor.base.errors import SrkdError, UsageError, report_unreadable, report_unwritable


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it over `path` when the block ends without an error.

    The suffix is kept, because writers choose a format by it. On any error the temporary file is removed and the
    previous file at `path` stays. After the block, name and content of the file are flushed to the disk.
    """
    with report_unwritable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=path.suffix, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            flush_file(temporary)
            os.chmod(temporary, 0o666 & ~_umask())
            os.replace(temporary, path)
            _flush_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file as a whole, or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def atomic_files(path: Path) -> Iterator[Path]:
    """Yield `path`'s name in an empty temporary folder; at the end, move everything in it to `path`'s folder.

    For a file with companions, and for formats that are a folder. Each is replaced as a whole, `path` itself last;
    on any error nothing is moved, and the previous files stay.
    """
    with report_unwritable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{path.stem}.", dir=path.parent))
        try:
            yield folder / path.name
            for source in sorted(folder.iterdir(), key=lambda item: item.name == path.name):
                _replace(source, path.parent / source.name)
            _flush_folder(path.parent)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def temporary_files(folder: Path, names: Iterable[str]) -> list[Path]:
    """Return the temporary files that a killed process left while it was writing `names`."""
    parts = [(glob.escape(path.stem), glob.escape(path.suffix)) for path in map(Path, names)]
    return [file for stem, suffix in parts for file in folder.glob(f".{stem}.????????{suffix}") if file.is_file()]


def _replace(source: Path, final: Path) -> None:
    """Flush a file or a folder to the disk and move it to `final`, replacing what is there."""
    for file in source.rglob("*") if source.is_dir() else (source,):
        if file.is_file():
            flush_file(file)
    os.chmod(source, (0o777 if source.is_dir() else 0o666) & ~_umask())
    if final.is_dir() and not final.is_symlink():
        os.replace(final, source.parent / f"{final.name}.older")
    os.replace(source, final)


def append(path: Path, content: bytes) -> None:
    with report_unwritable(path), open(path, "ab") as file:
        file.write(content)


def flush_file(path: Path) -> None:
    """Flush a file to the disk, so that it survives a power cut."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    """Flush a folder's file names: a power cut undoes a rename that is not on the disk."""
    with suppress(OSError):  # the folder is not readable, or a network file system does not support it
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def require_regular(path: Path) -> None:
    """Refuse a pipe, a device or a socket, or a link to one: reading it may block or never end."""
    try:
        mode = path.stat().st_mode
    except OSError:  # opening the file reports what is wrong
        return
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise SrkdError(f"{path} is a pipe or a device, not a file: give a file that holds all its bytes")


def read_bytes(path: Path, most_bytes: int) -> bytes:
    """Return the bytes of a regular file; refuse one of over `most_bytes`."""
    require_regular(path)
    with open(path, "rb") as file:
        # Check the size first: a sparse file takes no space on the disk, but all of its bytes in memory.
        size = os.fstat(file.fileno()).st_size
        if size > most_bytes:
            raise SrkdError(f"{path} has over {most_bytes:,} bytes: no file of this kind is so large")
        return file.read(size)


def read_text(path: Path, most_bytes: int) -> str:
    """Return the text of a UTF-8 file; refuse one of over `most_bytes`."""
    return read_bytes(path, most_bytes).decode("utf-8")


@contextmanager
def no_empty_folder(folder: Path) -> Iterator[None]:
    """Remove a folder and its parents at the end of the block if they are new and empty."""
    new = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        yield
    finally:
        for place in new:
            with suppress(OSError):
                place.rmdir()


def require_writable_folder(folder: Path, option: str) -> None:
    """Refuse a folder that cannot be created or written, before the work starts; the folder is not created here."""
    place = folder
    try:
        while not place.exists() and place != place.parent:
            place = place.parent
        with tempfile.TemporaryFile(dir=place):
            return
    except OSError as error:
        raise unwritable_folder(folder, option, error) from error


def unwritable_folder(folder: Path, option: str, error: OSError) -> UsageError:
    return UsageError(f"{option} {folder} cannot be written: {error.strerror or error}; choose another folder")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes: the `srkd.source_sha256` of files derived from it."""
    with report_unreadable(path), open(path, "rb") as handle:
        return sha256_of(handle)


def sha256_of(handle: IO[bytes]) -> str:
    """Return the SHA-256 of the rest of an open file, read in chunks."""
    digest = hashlib.sha256()
    while chunk := handle.read(2**20):
        digest.update(chunk)
    return digest.hexdigest()
