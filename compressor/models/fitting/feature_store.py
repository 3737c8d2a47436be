"""A store for features of many batches: in memory as long as they fit, the rest in a temporary file."""

from __future__ import annotations

import tempfile
from collections.abc import Hashable
from typing import IO, NamedTuple

import torch

from compressor.base.errors import SrkdError

MEMORY_BYTES = 1 << 30
"""Memory of one store in bytes; later tensors go to the file."""


class _Place(NamedTuple):
    """The place of a tensor in the file: its byte offset, layout, dtype and device."""

    offset: int
    size: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    def empty(self) -> torch.Tensor:
        return torch.empty_strided(self.size, self.stride, dtype=self.dtype)


class FeatureStore:
    """A dictionary of tensors that needs at most MEMORY_BYTES; each tensor returns unchanged, on its own device.

    The file is unnamed, or removed by the system with the process: nothing stays on disk, however a run ends.
    """

    def __init__(self) -> None:
        self.in_memory: dict[Hashable, torch.Tensor] = {}
        self.in_file: dict[Hashable, _Place] = {}
        self.memory_bytes = self.file_bytes = 0
        self._file: IO[bytes] | None = None
        self._gaps: dict[int, list[int]] = {}
        """Free offsets in the file, by the length of the gap."""

    def __enter__(self) -> FeatureStore:
        return self

    def __exit__(self, *error: object) -> None:
        self.in_memory.clear()
        self.in_file.clear()
        if self._file is not None:
            self._file.close()

    def __setitem__(self, key: Hashable, feature: torch.Tensor) -> None:
        self.discard(key)
        # Copy a view, which does not use all of its storage: it would keep its whole base tensor alive.
        is_view = feature.untyped_storage().nbytes() != feature.nbytes
        whole = feature.clone(memory_format=torch.preserve_format) if is_view else feature
        if self.memory_bytes + whole.nbytes <= MEMORY_BYTES:
            self.in_memory[key] = whole
            self.memory_bytes += whole.nbytes
        else:
            self.in_file[key] = self._write(whole)

    def __getitem__(self, key: Hashable) -> torch.Tensor:
        if key in self.in_memory:
            return self.in_memory[key]
        place = self.in_file[key]
        feature = place.empty()
        assert self._file is not None
        self._file.seek(place.offset)
        if self._file.readinto(_bytes_of(feature)) != feature.nbytes:  # type: ignore[attr-defined]
            raise SrkdError(f"the temporary file in {tempfile.gettempdir()} was cut short")
        return feature.to(place.device)

    def discard(self, key: Hashable) -> None:
        if key in self.in_memory:
            self.memory_bytes -= self.in_memory.pop(key).nbytes
        elif key in self.in_file:
            place = self.in_file.pop(key)
            self._gaps.setdefault(place.empty().nbytes, []).append(place.offset)

    def _write(self, feature: torch.Tensor) -> _Place:
        gaps = self._gaps.get(feature.nbytes)
        offset = gaps.pop() if gaps else self.file_bytes
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="srkd-", buffering=0)  # noqa: SIM115
            self._file.seek(offset)
            rest = memoryview(_bytes_of(feature.cpu()))
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            raise SrkdError(
                f"features that are too many for memory cannot be written in {tempfile.gettempdir()} "
                f"({error.strerror}): set TMPDIR to a folder with more space"
            ) from error
        self.file_bytes = max(self.file_bytes, offset + feature.nbytes)
        return _Place(offset, feature.size(), feature.stride(), feature.dtype, feature.device)


def _bytes_of(feature: torch.Tensor) -> memoryview:
    flat = feature.as_strided((feature.numel(),), (1,))
    return memoryview(flat.view(torch.uint8).numpy())  # type: ignore[arg-type]
