"""LR images without originals: those of a folder, or frames of a film, which become a folder of pictures.

The pictures are an entry of the cache folder, so that a run, its continuation and other processes read the same ones;
where nothing may be kept, they lie in a temporary folder until the process ends.
"""

from __future__ import annotations

import hashlib
import math
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from PIL import Image
from torch import Tensor

from compressor.base.cache_folder import CacheFolder, default_folder
from compressor.base.context import Note, no_note
from compressor.base.errors import SrkdError, report_unreadable, report_unwritable
from compressor.images.metrics import to_u8
from compressor.images.sets import LrImage, find_lr_images
from compressor.images.suffixes import is_film
from compressor.video.library import load_av
from compressor.video.reading import Film

FRAMES_OF_A_FILM = 64
"""Frames that are taken of a film at most: neighbours in time show the same scene, so more add little."""

BLACK = 0.1
"""A frame without a value above this is black."""

LAYOUT_VERSION = 4
"""Part of the key of an entry: another choice of frames makes them anew."""


def sample_frames(path: Path, most: int = FRAMES_OF_A_FILM) -> Iterator[tuple[float, Tensor, Tensor]]:
    """Yield the frames in the middle of `most` equal parts of a film, or all of a shorter one, but no black ones and
    none twice: the time in seconds, the frame in uint8, and the one that follows it; the last one follows itself.
    """
    seen = set[bytes]()
    with Film(path) as film:
        facts, first = film.facts, next(film.frames()).pts
        count = facts.frames or 1 + sum(1 for _ in film.frames())
        parts = min(count, most)
        for part in range(parts):
            number = int((part + 0.5) * count / parts)
            # Half a frame earlier, as times are rounded.
            found = film.frames_from(first + round((number - 0.5) / (facts.rate * facts.time_base)))
            frame = next(found, None)
            if frame is None:
                continue
            rgb_u8 = to_u8(frame.rgb)[0]
            digest = hashlib.blake2b(rgb_u8.numpy().tobytes(), digest_size=16).digest()
            if digest not in seen and float(frame.rgb.max()) > BLACK:
                seen.add(digest)
                yield float(frame.pts * facts.time_base), rgb_u8, to_u8(next(found, frame).rgb)[0]
    if not seen:
        raise SrkdError(f"{path} holds black frames only: give a film with pictures")


def lr_images(path: Path, *, cache: CacheFolder | None = None, note: Note = no_note) -> tuple[LrImage, ...]:
    """Return a folder's images, or a film's frames, each with the one that follows it, as LR images without HR ones."""
    if not is_film(path):
        return find_lr_images(path)
    images = find_lr_images(_frames_folder(path, CacheFolder(default_folder()) if cache is None else cache, note))
    first, last = (int(image.stem.removesuffix("ms").rpartition("-")[2]) / 1000 for image in (images[0], images[-1]))
    note(f"{path.name}: {len(images)} frames from {first:.1f} to {last:.1f} s")
    return tuple(replace(image, following=_following(image.lr)) for image in images)


def _following(frame: Path) -> Path:
    """Return the file of the frame that follows one: hidden, so that no list of images has it."""
    return frame.with_name(f".{frame.name}")


def _frames_folder(film: Path, cache: CacheFolder, note: Note) -> Path:
    with report_unreadable(film):
        status = film.stat()
    # All that the frames depend on: the film's name, size and time, and how they are chosen.
    facts = LAYOUT_VERSION, FRAMES_OF_A_FILM, load_av().__version__, str(film.resolve()), status.st_size
    key = f"frames-{hashlib.blake2b(repr((*facts, status.st_mtime_ns)).encode(), digest_size=16).hexdigest()}"
    if cache.limit:
        folder = cache.find(key, Path, note)
        if folder is None:
            with Film(film) as opened:
                size = 2 * FRAMES_OF_A_FILM * 3 * math.prod(opened.facts.size)
            folder = cache.make(key, Path, lambda entry: _write(film, entry), size, no_note)
        if folder is not None:
            return folder
    return Path(_temporary_folder(film, key).name)


@lru_cache
def _temporary_folder(film: Path, key: str) -> tempfile.TemporaryDirectory[str]:
    """The frames of a film that are not kept: Python removes the folder at its end."""
    folder = tempfile.TemporaryDirectory(prefix=f"srkd-{key[:12]}-")
    with report_unwritable(Path(folder.name)):
        _write(film, Path(folder.name))
    return folder


def _write(film: Path, folder: Path) -> None:
    for seconds, frame_u8, following_u8 in sample_frames(film):
        # No point in the name: it would end the stem.
        path = folder / f"{film.stem}-{round(seconds * 1000):09d}ms.png"
        for rgb_u8, file in ((frame_u8, path), (following_u8, _following(path))):
            Image.fromarray(rgb_u8.permute(1, 2, 0).contiguous().numpy()).save(file, compress_level=1)
