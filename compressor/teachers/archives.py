"""Untrusted zip archives, opened in memory after checks of their size and of ambiguous names."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

from compressor.base.errors import SrkdError
from compressor.models.checkpoints.files import INFLATED_ANYWAY_BYTES, LARGEST_INFLATION

TEXT_LIMIT_BYTES = 256 * 2**20
DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, struct.error, OSError, EOFError),
    *(ValueError, OverflowError, NotImplementedError),
)
"""Errors that zipfile raises on files that are no archives or have impossible values."""
ENCRYPTED = 1
"""The flag bit of an encrypted zip record."""


def archive_kind(path: Path) -> str | None:
    """Return "torchscript", "export" or "export-old"; None for anything else, such as a plain checkpoint."""
    try:
        with open(path, "rb") as handle:
            if handle.read(4) != b"PK\x03\x04":
                return None
            names = {name.partition("/")[2] or name for name in zipfile.ZipFile(handle).namelist()}
    except DAMAGE:
        return None
    if "constants.pkl" in names and any(name.startswith("code/") for name in names):
        return "torchscript"
    if any(name.startswith("models/") and name.endswith(".json") for name in names):
        return "export"
    return "export-old" if "serialized_exported_program.json" in names else None


@contextmanager
def open_bounded(content: bytes, path: Path) -> Iterator[zipfile.ZipFile]:
    """Open the archive; damage within the block becomes one line.

    The size of its records is bounded by a small multiple of the file, and no two names differ in case alone: torch
    finds some records regardless of case, and would read another record than the checked one.
    """
    try:
        with zipfile.ZipFile(BytesIO(content)) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
            if unpacked > LARGEST_INFLATION * len(content) + INFLATED_ANYWAY_BYTES:
                raise SrkdError(f"{path}: its {len(content):,} bytes unpack to {unpacked:,}: this is not a model")
            locked = next((member.filename for member in archive.infolist() if member.flag_bits & ENCRYPTED), None)
            if locked is not None:
                raise SrkdError(f"{path}: its record {locked[-60:]!r} is encrypted: save the model without a password")
            names: dict[str, str] = {}
            for name in archive.namelist():
                other = names.get(name.lower())
                if other is not None:
                    raise SrkdError(
                        f"{path}: it holds {name[-60:]!r} and {other[-60:]!r}, two records of one name: refused"
                    )
                names[name.lower()] = name
            damaged = next((member.filename for member in archive.infolist() if not _is_whole(archive, member)), None)
            if damaged is not None:
                raise SrkdError(f"{path}: a damaged archive (record {damaged[-60:]!r}): download or export it again")
            yield archive
    except DAMAGE as error:
        raise SrkdError(f"{path}: a damaged archive ({str(error)[:80]}): download or export it again") from error


def _is_whole(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bool:
    """Return True if the record has as many bytes as the directory says; zipfile itself checks the bytes."""
    with archive.open(member) as record:
        length = 0
        while piece := record.read(2**20):
            length += len(piece)
    return length == member.file_size


def read_text(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> str:
    if member.file_size > TEXT_LIMIT_BYTES:
        raise SrkdError(f"{path}: {member.filename[:60]} has {member.file_size:,} bytes of text: this is not a model")
    return archive.read(member).decode("utf-8", errors="replace")
