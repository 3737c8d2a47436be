"""Memory that a process shares with a child: float32 tensors pass through it as they are, without a copy in a pipe."""

from __future__ import annotations

import math
import mmap
import os
import tempfile
from collections.abc import Sequence

import torch

from compressor.base.choices import Layout
from compressor.base.errors import SrkdError
from compressor.base.precision import memory_format

SIZE = 2**32
"""Bytes of address space; only those that were written take memory."""
ALIGNMENT = 64


class SharedMemory:
    """The memory behind `file`, an open descriptor that a child inherits; without one it is created.

    The other process may be hostile: a caller copies what it reads, and a jail forbids shrinking the file, which would
    crash this process.
    """

    def __init__(self, file: int | None = None) -> None:
        self.file = _create() if file is None else file
        self._map = mmap.mmap(self.file, SIZE)

    def close_file(self) -> None:
        """Close the descriptor, which a child has inherited; the memory stays."""
        os.close(self.file)

    def write(self, content: bytes) -> None:
        """Write bytes at the start."""
        self._map[: len(content)] = content

    def read(self, count: int) -> bytes:
        """Return bytes from the start."""
        return self._map[:count]

    def tensor(self, shape: Sequence[int], layout: Layout, after: int = 0) -> torch.Tensor:
        """Return the float32 tensor that begins after so many bytes: a view of the memory."""
        start, count = -(-after // ALIGNMENT) * ALIGNMENT, math.prod(shape)
        if min(shape, default=0) < 1 or start + 4 * count > SIZE:
            raise SrkdError(f"images of shape {tuple(shape)} do not fit into {SIZE // 2**30} GiB of shared memory")
        strides = torch.empty(tuple(shape), device="meta", memory_format=memory_format(layout)).stride()
        values = torch.frombuffer(self._map, dtype=torch.float32, count=count, offset=start)
        return values.as_strided(tuple(shape), strides)


def layout_of(tensor: torch.Tensor) -> Layout:
    """Return the layout that keeps a tensor's strides, if there is one."""
    is_last = tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    return "channels_last" if is_last and not tensor.is_contiguous() else "contiguous"


def _create() -> int:
    """Return the descriptor of a file without a name."""
    if hasattr(os, "memfd_create"):  # Linux
        file = os.memfd_create("srkd")
    else:
        with tempfile.TemporaryFile() as temporary:
            file = os.dup(temporary.fileno())
    os.ftruncate(file, SIZE)
    return file
