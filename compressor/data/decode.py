"""Image files to pixels, several at a time, in the order of asking and with few of them in memory.

Where decoded images go: the cache folder, memory, or a file that is gone when the run ends.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import PIL
import torch

from compressor.base.cache_folder import SPARE, CacheFolder, told
from compressor.base.choices import Border
from compressor.base.context import Note, Progress, no_note, no_progress
from compressor.base.errors import SrkdError
from compressor.base.machine import available_memory, usable_cores
from compressor.data.store import (
    VERSION,
    Decoded,
    File,
    Flat,
    ImageStore,
    Memory,
    Skipped,
    Stored,
    open_planes,
    read_store,
    write_index,
)
from compressor.images.files import image_size, read_rgb_u8
from compressor.images.resize import downscale_u8, mod_crop
from compressor.images.sets import ImagePair, LrImage

Source: TypeAlias = ImagePair | LrImage
MOST_WORKERS = 8


@dataclass(frozen=True)
class Pixels:
    """One image as it will be stored: (3,H,W) uint8, contiguous."""

    name: str
    path: Path
    lr: torch.Tensor
    hr: torch.Tensor | None
    digest: str


def decoded(
    sources: Sequence[Source], *, scale: int, border: Border, workers: int | None = None
) -> Iterator[Pixels | Skipped]:
    """Every source in order. Threads: decoders and arithmetic run outside Python's lock."""
    count = workers or _workers()
    waiting: deque[Future[Pixels | Skipped]] = deque()
    with _one_thread_each(count), ThreadPoolExecutor(count) as pool:
        try:
            for source in sources:
                waiting.append(pool.submit(decode, source, scale, border))
                if len(waiting) > 2 * count:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def decode(source: Source, scale: int, border: Border) -> Pixels | Skipped:
    """HR mod-cropped to the scale with its own LR image or a bicubic one, or a lone LR image; or why not."""
    path = source.lr if isinstance(source, LrImage) else source.hr
    try:
        if isinstance(source, LrImage):
            return _pixels(source.stem, path, read_rgb_u8(path), None)
        hr_u8 = mod_crop(read_rgb_u8(source.hr), scale).contiguous()
        if source.lr is None:
            return _pixels(source.stem, path, downscale_u8(hr_u8, scale, border=border), hr_u8)
        lr_u8 = read_rgb_u8(source.lr)
        wanted = (3, hr_u8.shape[1] // scale, hr_u8.shape[2] // scale)
        if tuple(lr_u8.shape) != wanted:
            told = f"{lr_u8.shape[2]}x{lr_u8.shape[1]}, its HR {source.hr.name} needs {wanted[2]}x{wanted[1]}"
            return Skipped(source.lr, f"LR is {told} at x{scale}")
        return _pixels(source.stem, path, lr_u8, hr_u8)
    except SrkdError as error:
        return Skipped(path, str(error))
    except Exception as error:  # noqa: BLE001
        # One odd file must not end the reading of thousands; what went wrong stands in run.json.
        return Skipped(path, f"{path} cannot be read: {type(error).__name__}: {error}")


@dataclass(frozen=True)
class Room:
    """Bytes that LR and HR images take."""

    lr: int
    hr: int

    @property
    def bytes(self) -> int:
        return self.lr + self.hr


def room_for(sources: Sequence[Source], scale: int) -> Room:
    """What the pixels take at most, by the files' headers."""
    with ThreadPoolExecutor(_workers()) as pool:
        rooms = list(pool.map(lambda source: _room(source, scale), sources))
    return Room(sum(room.lr for room in rooms), sum(room.hr for room in rooms))


def _room(source: Source, scale: int) -> Room:
    try:
        width, height = image_size(source.lr if isinstance(source, LrImage) else source.hr)
    except SrkdError:
        return Room(0, 0)
    if isinstance(source, LrImage):
        return Room(3 * width * height, 0)
    return Room(3 * (width // scale) * (height // scale), 3 * width * height)


def _workers() -> int:
    return max(1, min(usable_cores() or 1, MOST_WORKERS))


def _pixels(name: str, path: Path, lr_u8: torch.Tensor, hr_u8: torch.Tensor | None) -> Pixels:
    hashed = hashlib.blake2b(digest_size=16)
    for plane in (lr_u8, hr_u8):
        if plane is not None:
            hashed.update(repr(tuple(plane.shape)).encode())
            hashed.update(plane.numpy().data)
    return Pixels(name, path, lr_u8, hr_u8, hashed.hexdigest())


@contextmanager
def _one_thread_each(workers: int) -> Iterator[None]:
    """New threads take torch's setting over: without this, each worker would start a team as large as the machine."""
    before = torch.get_num_threads()
    if workers > 1:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


SMALL = 32_000_000
"""Bytes up to which decoding again is quicker than a person notices: such images stay in memory, and off the disk."""

MEMORY_SHARE = 0.6
"""Of the memory that is free, what images may take."""


def build_store(
    sources: Sequence[Source],
    *,
    scale: int,
    lr_patch: int,
    border: Border = "mirror",
    cache: CacheFolder | None = None,
    progress: Progress = no_progress,
    announce: Note = no_note,
) -> ImageStore:
    """Every source decoded, or taken from the cache; LR images made where none are given."""
    found = decode_all(sources, scale=scale, border=border, cache=cache, progress=progress, announce=announce)
    return found.select(range(len(sources)), lr_patch=lr_patch)


def decode_all(
    sources: Sequence[Source],
    *,
    scale: int,
    border: Border = "mirror",
    cache: CacheFolder | None = None,
    progress: Progress = no_progress,
    announce: Note = no_note,
    small: int = SMALL,
) -> Decoded:
    """The images of `sources`, from the cache where they have not changed since, and kept there where it is allowed."""
    reading = Reading(tuple(sources), scale, border, progress)
    if cache is None or cache.limit == 0:
        return reading.without_cache(room_for(sources, scale), announce)
    key = reading.fingerprint()
    found = cache.find(key, read_store, announce)
    images = "1 image" if len(sources) == 1 else f"{len(sources)} images"
    if found is not None:
        announce(f"{images} as decoded before: {cache.path / key} ({told(found.bytes)})")
        return found
    room = room_for(sources, scale)
    if room.bytes > small:
        begun = time.monotonic()
        found = cache.make(key, read_store, reading.write, room.bytes, announce)
        if found is not None:
            seconds = time.monotonic() - begun
            announce(f"{images} decoded in {seconds:.0f} s, kept in {cache.path / key} ({told(found.bytes)})")
            return found
    return reading.without_cache(room, announce)


@dataclass(frozen=True)
class Reading:
    """What is to be decoded, and how."""

    sources: tuple[Source, ...]
    scale: int
    border: Border
    progress: Progress

    def fingerprint(self) -> str:
        """A hash of everything the pixels depend on: names, sizes and times of all files, and how they are decoded."""
        hashed = hashlib.blake2b(repr((VERSION, PIL.__version__, self.scale, self.border)).encode(), digest_size=16)
        for source in self.sources:
            paths = [source.lr] if isinstance(source, LrImage) else [source.hr, source.lr]
            hashed.update(ascii((source.stem, [_identity(path) for path in paths])).encode())
        return f"images-{hashed.hexdigest()}"

    def write(self, folder: Path) -> None:
        """An entry of the cache."""
        with open_planes(folder) as (lr, hr):
            write_index(folder, self.into(lr, hr))

    def without_cache(self, room: Room, announce: Note) -> Decoded:
        """In memory where it fits, otherwise in a nameless file in the folder for temporary files."""
        available = int(available_memory() * MEMORY_SHARE)
        if room.bytes <= available:
            return self.into(Memory(room.lr), Memory(room.hr))
        folder = tempfile.gettempdir()
        free = shutil.disk_usage(folder).free
        if free < room.bytes + SPARE:
            raise SrkdError(
                f"the decoded images take {told(room.bytes)}, and there are {told(available)} of memory for them and "
                f"{told(free)} of disk in {folder}: raise --cache-size, point $SRKD_CACHE or $TMPDIR to a larger disk, "
                "or use fewer images"
            )
        announce(f"the decoded images ({told(room.bytes)}) lie in a temporary file in {folder} until the run ends")
        with tempfile.TemporaryFile(dir=folder) as lr, tempfile.TemporaryFile(dir=folder) as hr:
            return self.into(File(lr), File(hr))

    def into(self, lr: Flat, hr: Flat) -> Decoded:
        """Decode everything into two growing memories."""
        images: list[Stored | Skipped] = []
        for pixels in decoded(self.sources, scale=self.scale, border=self.border):
            if isinstance(pixels, Skipped):
                images.append(pixels)
            else:
                hr_extent = None if pixels.hr is None else hr.append(pixels.hr)
                images.append(Stored(pixels.name, pixels.path, lr.append(pixels.lr), hr_extent, pixels.digest))
            self.progress("reading images", len(images), len(self.sources))
        alone = all(isinstance(source, LrImage) for source in self.sources)
        return Decoded(self.scale, tuple(images), lr.tensor(), None if alone else hr.tensor())


def _identity(path: Path | None) -> tuple[object, ...]:
    """What changes when a file does: the time of its entry (ctime) too, because copying can keep the file's own."""
    if path is None:
        return ()
    try:
        stat = path.stat()
    except OSError as error:
        raise SrkdError(f"{path} cannot be read: {error.strerror}") from error
    return str(path.absolute()), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns
