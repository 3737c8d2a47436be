"""Where decoded images go: the cache folder, memory, or a file that is gone when the run ends."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import PIL

from compressor.data.cache_folder import SPARE, CacheFolder, told
from compressor.data.decode import Room, Source, decoded, room_for
from compressor.data.store import Decoded, ImageStore, Skipped, Stored
from compressor.data.store_files import VERSION, File, Flat, Memory, open_planes, read_store, write_index
from compressor.errors import SrkdError
from compressor.imagesets import LrImage
from compressor.machine import available_memory
from compressor.progress import Announce, Progress, silent, unheard
from compressor.resize import Border

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
    progress: Progress = silent,
    announce: Announce = unheard,
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
    progress: Progress = silent,
    announce: Announce = unheard,
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

    def without_cache(self, room: Room, announce: Announce) -> Decoded:
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
