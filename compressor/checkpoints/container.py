"""From bytes to tensors: a checkpoint file of any format, opened without running any code of it.

Memory is bounded by the file: a storage is read when a tensor of it is asked for, never past the size that the file
holds for it, and all of them together never past a small multiple of the file (a deflated archive may be a bomb).
"""

from __future__ import annotations

import hashlib
import math
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import torch

from compressor.checkpoints.formats import Opened, open_legacy, open_safetensors, open_zip
from compressor.checkpoints.pickles import StorageRef, TensorRef
from compressor.errors import SrkdError, is_out_of_memory

MOST_AXES = 8


class Container:
    """An open checkpoint. `content` holds plain values, and a `TensorRef` wherever the file has a tensor."""

    def __init__(self, opened: Opened, sha256: str, size_bytes: int) -> None:
        self.kind, self.content, self.header = opened.kind, opened.content, opened.header
        self.sha256, self.size_bytes = sha256, size_bytes
        self._read = opened.read
        self._budget_bytes = opened.most_bytes
        self._storages: dict[tuple[str, torch.dtype], torch.Tensor] = {}

    def tensor(self, ref: TensorRef) -> torch.Tensor:
        """The tensor on the CPU, as a view of its storage."""
        count = math.prod(ref.shape)
        if len(ref.shape) > MOST_AXES or (count == 0 and max(ref.shape) > 2**31):
            raise SrkdError(f"a tensor of shape {str(ref.shape)[:60]} is not one of a network")
        if count == 0:
            return torch.empty(ref.shape, dtype=ref.storage.dtype)
        last = ref.offset + sum((size - 1) * step for size, step in zip(ref.shape, ref.stride, strict=True))
        if last >= ref.storage.size or count > ref.storage.size:
            raise SrkdError(
                f"a tensor of shape {str(ref.shape)[:60]} claims more than the {ref.storage.size:,} values of its "
                "storage: save contiguous tensors"
            )
        # The stride of an axis of one element means nothing, and need not even fit into 64 bits.
        stride = [step if size > 1 else 1 for size, step in zip(ref.shape, ref.stride, strict=True)]
        return self._storage(ref.storage).as_strided(ref.shape, stride, ref.storage.start + ref.offset)

    def _storage(self, ref: StorageRef) -> torch.Tensor:
        assert ref.dtype is not None  # no tensor is described without one
        wanted = ref.start + ref.size
        known = self._storages.get((ref.key, ref.dtype))
        if known is None or known.numel() < wanted:
            self._budget_bytes -= wanted * ref.dtype.itemsize
            if self._budget_bytes < 0:
                raise SrkdError(
                    f"its tensors claim far more than the file's {self.size_bytes:,} bytes: no checkpoint does"
                )
            values = self._read(ref, wanted * ref.dtype.itemsize)
            known = self._storages[ref.key, ref.dtype] = torch.frombuffer(values, dtype=ref.dtype)
        return known


@contextmanager
def open_container(path: Path) -> Iterator[Container]:
    """Open a checkpoint of any format. Errors do not name the path: the caller knows what the user called it."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise SrkdError("not a file: give a checkpoint (.pt, .pth, .safetensors) or a run folder")
        with open(path, "rb") as handle:
            sha256 = _sha256(handle)
            size_bytes = handle.tell()
            yield Container(_open(handle, size_bytes), sha256, size_bytes)
    except FileNotFoundError as error:
        raise SrkdError("no such file") from error
    except OSError as error:
        raise SrkdError(f"cannot be read: {error.strerror or error}") from error
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise SrkdError("does not fit into memory") from error


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes: the `srkd.source_sha256` of whatever is made from it."""
    try:
        with open(path, "rb") as handle:
            return _sha256(handle)
    except OSError as error:
        raise SrkdError(f"{path}: cannot be read: {error.strerror or error}") from error


def _sha256(handle: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while chunk := handle.read(2**20):
        digest.update(chunk)
    return digest.hexdigest()


def _open(handle: IO[bytes], size_bytes: int) -> Opened:
    handle.seek(0)
    start = handle.read(16)
    handle.seek(0)
    if not start:
        raise SrkdError("the file is empty: download or save it again")
    if start.startswith(b"PK\x03\x04"):
        return open_zip(handle, size_bytes)
    # Before the pickles: the length of a safetensors header may begin with their first byte.
    if start[8:9] == b"{" and (int.from_bytes(start[:8], "little") <= size_bytes or start[:1] != b"\x80"):
        return open_safetensors(handle, size_bytes)
    if start.startswith(b"\x80"):
        return open_legacy(handle, size_bytes)
    raise SrkdError(f"not a checkpoint, it starts with {start[:8]!r}: srkd reads .pt, .pth and .safetensors files")
