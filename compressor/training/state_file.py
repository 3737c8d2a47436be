"""A state as one file that proves itself: torch.save's zip, whose comment holds a hash of every byte before it.

Torch reads it as any other file of its own, and itself checks no sums: a flipped bit in a weight would go unseen.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from compressor.base.errors import SrkdError
from compressor.base.files import atomic_path

MARK = b"srkd state blake2b "
COMMENT = len(MARK) + 64
"""Bytes of the comment: the mark and 32 bytes of hash in hexadecimal digits."""


class Damaged(SrkdError):
    """The file is not what was written: cut short, empty, changed, or unreadable."""


def write_parts(path: Path, parts: Mapping[str, Any]) -> None:
    """Write whole or not at all. Through memory: torch tells a full disk in words that mean nothing to a user."""
    buffer = io.BytesIO()
    torch.save(dict(parts), buffer)
    archive = buffer.getbuffer()
    if bytes(archive[-2:]) != b"\0\0":
        raise RuntimeError("torch.save wrote a zip that has a comment: there is no place for the hash")
    # The last two bytes of a zip without a comment are the comment's length.
    length = COMMENT.to_bytes(2, "little")
    digest = _hash(archive[:-2], length)
    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        stream.write(archive[:-2])
        stream.write(length + MARK + digest)


def pack(parts: Mapping[str, Any]) -> bytes:
    """A state as bytes, for another process."""
    buffer = io.BytesIO()
    torch.save(dict(parts), buffer)
    return buffer.getvalue()


def unpack(packed: bytes) -> dict[str, Any]:
    parts: dict[str, Any] = torch.load(io.BytesIO(packed), weights_only=True, map_location="cpu")
    return parts


def read_parts(path: Path) -> dict[str, Any]:
    """What was written, or `Damaged`."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise Damaged(f"{path} cannot be read: {error.strerror}") from error
    if not content:
        raise Damaged(f"{path} is empty")
    sealed, comment = content[:-COMMENT], content[-COMMENT:]
    if comment != MARK + _hash(sealed, b""):
        raise Damaged(f"{path} is damaged: its bytes are not those that were written")
    try:
        parts = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
    except (RuntimeError, ValueError, pickle.UnpicklingError) as error:
        raise SrkdError(f"this torch cannot read {path}: {str(error).strip().splitlines()[0][:200]}") from error
    if not isinstance(parts, dict):
        raise SrkdError(f"{path} holds no state")
    return parts


def _hash(content: bytes | memoryview, rest: bytes) -> bytes:
    hashed = hashlib.blake2b(content, digest_size=32)
    hashed.update(rest)
    return hashed.hexdigest().encode()
