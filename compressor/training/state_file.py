"""A state as one file that can be verified: torch.save's zip, whose comment holds a hash of every byte before it.

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


class DamagedState(SrkdError):
    """The file differs from what was written: cut short, empty, changed, or unreadable."""


def write_state_file(path: Path, state: Mapping[str, Any]) -> None:
    """Write whole or not at all. Through memory: torch reports a full disk in words that mean nothing to a user."""
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    archive = buffer.getbuffer()
    if bytes(archive[-2:]) != b"\0\0":
        raise RuntimeError("torch.save wrote a zip that has a comment: there is no space for the hash")
    # The last two bytes of a zip without a comment are the comment's length.
    length = COMMENT.to_bytes(2, "little")
    digest = _hash(archive[:-2], length)
    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        stream.write(archive[:-2])
        stream.write(length + MARK + digest)


def pack_state(state: Mapping[str, Any]) -> bytes:
    """Return a state as bytes, for another process."""
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    return buffer.getvalue()


def unpack_state(packed: bytes) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(io.BytesIO(packed), weights_only=True, map_location="cpu")
    return state


def read_state_file(path: Path) -> dict[str, Any]:
    """Read and verify a state, or raise `DamagedState`."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DamagedState(f"{path} cannot be read: {error.strerror}") from error
    if not content:
        raise DamagedState(f"{path} is empty")
    sealed, comment = content[:-COMMENT], content[-COMMENT:]
    if comment != MARK + _hash(sealed, b""):
        raise DamagedState(f"{path} is damaged: its bytes are not those that were written")
    try:
        state = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
    except (RuntimeError, ValueError, pickle.UnpicklingError) as error:
        raise SrkdError(f"this torch cannot read {path}: {str(error).strip().splitlines()[0][:200]}") from error
    if not isinstance(state, dict):
        raise SrkdError(f"{path} is not a saved state")
    return state


def _hash(content: bytes | memoryview, rest: bytes) -> bytes:
    digest = hashlib.blake2b(content, digest_size=32)
    digest.update(rest)
    return digest.hexdigest().encode()
