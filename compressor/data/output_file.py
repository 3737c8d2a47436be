"""Images in half precision in one file that only grows, found by the key of what each was made from.

NAME.fp16 holds the values, image after image; NAME.jsonl has a line for each, written after its values: key, place,
size and checksum. So a process that dies leaves whole images behind, and at worst some bytes that no line names. An
image whose checksum is wrong counts as absent and is made again. One process writes at a time.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from compressor.data.store import Plane
from compressor.errors import SrkdError
from compressor.progress import Announce, Progress

try:
    import fcntl
except ImportError:  # Windows: whoever starts two runs on one cache there fills it twice
    fcntl = None  # type: ignore[assignment]

BYTES = 2


@dataclass(frozen=True)
class Entry:
    """Where an image lies, counted in values; C,H,W with three channels."""

    key: str
    offset: int
    height: int
    width: int
    crc32: int

    @property
    def values(self) -> int:
        return 3 * self.height * self.width


@dataclass(frozen=True)
class OutputFile:
    """The two files of one name."""

    folder: Path
    name: str

    @property
    def data(self) -> Path:
        return self.folder / f"{self.name}.fp16"

    @property
    def index(self) -> Path:
        return self.folder / f"{self.name}.jsonl"

    @contextmanager
    def alone(self, announce: Announce) -> Iterator[None]:
        """Wait until no other process writes; it may just be making what is wanted here."""
        with _one_line(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = open(self.folder / f"{self.name}.lock", "w", encoding="utf-8")  # noqa: SIM115
        with lock:
            if fcntl is not None:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    announce("waiting for another run that fills the same teacher cache")
                    fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def sound(self, keys: Sequence[str], progress: Progress) -> dict[str, Entry]:
        """The entries among `keys` whose values are what was written."""
        known = self._listed()
        present = [known[key] for key in dict.fromkeys(keys) if key in known]
        if not present:
            return {}
        mapped = np.memmap(self.data, np.float16, "r", shape=(self.data.stat().st_size // BYTES,))
        sound = {}
        for done, entry in enumerate(present, start=1):
            if zlib.crc32(mapped[entry.offset : entry.offset + entry.values].data) == entry.crc32:
                sound[entry.key] = entry
            progress("checking the teacher cache", done, len(present))
        return sound

    def append(self, key: str, image: torch.Tensor) -> Entry:
        """Write (3,H,W) in half precision behind everything else: first the values, then their line."""
        values = image.to(torch.float16).contiguous().cpu().numpy().data
        _, height, width = image.shape
        with _one_line(self.data), open(self.data, "ab") as data, open(self.index, "a+b") as index:
            start = data.seek(0, 2)
            start += data.write(bytes(-start % BYTES))
            entry = Entry(key, start // BYTES, height, width, zlib.crc32(values))
            try:
                data.write(values.cast("B"))
                data.flush()
            except OSError:
                data.truncate(start)
                raise
            index.write(_newline_if_cut(index) + json.dumps(asdict(entry)).encode() + b"\n")
        return entry

    def plane(self, entries: Mapping[str, Entry], keys: Sequence[str]) -> Plane:
        """The images of `keys`, in their order, in the memory-mapped file."""
        size = self.data.stat().st_size // BYTES
        ordered = [entries[key] for key in keys]
        return Plane(
            torch.from_file(str(self.data), shared=False, size=size, dtype=torch.float16),
            torch.tensor([entry.offset for entry in ordered]),
            torch.tensor([entry.height for entry in ordered]),
            torch.tensor([entry.width for entry in ordered]),
        )

    def _listed(self) -> dict[str, Entry]:
        """What the index names and the file is long enough for; a line that a crash cut short is passed over."""
        size = self.data.stat().st_size // BYTES if self.data.is_file() else 0
        entries: dict[str, Entry] = {}
        for line in self.index.read_bytes().splitlines() if self.index.is_file() else []:
            try:
                entry = Entry(**json.loads(line))
                fits = entry.offset >= 0 and entry.values > 0 and entry.offset + entry.values <= size
            except (ValueError, TypeError):
                continue
            if fits:
                entries[entry.key] = entry
        return entries


def _newline_if_cut(index: BinaryIO) -> bytes:
    """A line that a crash cut short is ended before the next one."""
    if index.seek(0, 2) == 0:
        return b""
    index.seek(-1, 2)
    return b"" if index.read(1) == b"\n" else b"\n"


@contextmanager
def _one_line(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SrkdError(f"cannot write the teacher cache {path}: {error.strerror or error}") from error
