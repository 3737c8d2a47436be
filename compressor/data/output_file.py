"""Images in half precision in an entry of the cache folder that grows, found by the key of what each was made from.

outputs.fp16 holds the values, image after image; outputs.jsonl has a line for each, written after its values: key,
place, size and checksum. So a process that dies leaves whole images behind, and at worst some bytes that no line names.
An image whose checksum is wrong counts as absent and is made again. One process writes at a time.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

import torch

from compressor.data.cache_folder import CacheFolder, mapped
from compressor.data.store import Plane
from compressor.errors import SrkdError
from compressor.progress import Announce, Progress

BYTES = 2
HEADER = b"srkd: outputs of a teacher, fp16".ljust(64)
"""So that a new file too has something to map, and by that is in use."""


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
    """The entry of one name in a cache folder."""

    folder: CacheFolder
    name: str

    @property
    def data(self) -> Path:
        return self.folder.path / self.name / "outputs.fp16"

    @property
    def index(self) -> Path:
        return self.folder.path / self.name / "outputs.jsonl"

    @contextmanager
    def held(self, announce: Announce) -> Iterator[None]:
        """Nobody else writes the entry meanwhile, which may just be making what is wanted here, nor removes it."""
        with self.folder.growing(self.name, announce):
            with _one_line(self.data), open(self.data, "a+b") as file:
                if not file.seek(0, 2):
                    file.write(HEADER)
                    file.flush()
                hold = mapped(file)
            try:
                yield
            finally:
                hold.close()

    def sound(self, keys: Sequence[str], progress: Progress) -> dict[str, Entry]:
        """The entries among `keys` whose values are what was written."""
        known = self._listed()
        present = [known[key] for key in dict.fromkeys(keys) if key in known]
        if not present:
            return {}
        sound = {}
        values = self._values().numpy()
        for done, entry in enumerate(present, start=1):
            if zlib.crc32(values[entry.offset : entry.offset + entry.values].data) == entry.crc32:
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
        ordered = [entries[key] for key in keys]
        return Plane(
            self._values(),
            torch.tensor([entry.offset for entry in ordered]),
            torch.tensor([entry.height for entry in ordered]),
            torch.tensor([entry.width for entry in ordered]),
        )

    def _values(self) -> torch.Tensor:
        """The whole file, memory-mapped; in use as long as the tensor lives."""
        with open(self.data, "rb") as file:
            whole = mapped(file)
        return torch.frombuffer(whole, dtype=torch.float16, count=len(whole) // BYTES)

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
