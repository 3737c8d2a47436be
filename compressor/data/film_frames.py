"""LR images without originals: those of a folder, or frames of a film, which become a folder of pictures.

The pictures are an entry of the cache folder, so that a run, its continuation and other processes read the same ones;
where nothing may be kept, they lie in a temporary folder until the process ends.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image
from torch import Tensor

from compressor.base.cache_folder import CacheFolder, default_folder
from compressor.base.context import Note, no_note
from compressor.base.errors import SrkdError, report_unreadable, report_unwritable
from compressor.images.sets import LrImage, find_lr_images
from compressor.images.suffixes import is_film
from compressor.video.library import load_av
from compressor.video.sampling import FRAMES_OF_A_FILM, SampledFrame, sample_frames

SUMMARY = "frames.json"
LAYOUT_VERSION = 2
"""Part of the key of an entry: another choice of frames makes them anew."""

_TEMPORARY: dict[str, tempfile.TemporaryDirectory[str]] = {}
"""Folders of films whose frames are not kept, by key; Python removes them at its end."""


def lr_images(
    path: Path, option: str = "--lr-only", *, cache: CacheFolder | None = None, note: Note = no_note
) -> tuple[LrImage, ...]:
    """Return the images of a folder, or frames of a film, as LR images without HR partners.

    Frames of a film come with the one that follows each.
    """
    if not is_film(path):
        return find_lr_images(path, option)
    folder = _frames_folder(path, CacheFolder(default_folder()) if cache is None else cache)
    note(f"{path.name}: {json.loads((folder / SUMMARY).read_text(encoding='utf-8'))['line']}")
    return tuple(replace(image, following=_following(image.lr)) for image in find_lr_images(folder, option))


def _following(frame: Path) -> Path:
    """Return the file of the frame that follows one: hidden, so that no list of images has it."""
    return frame.with_name(f".{frame.name}")


def _frames_folder(film: Path, cache: CacheFolder) -> Path:
    key = _key(film)
    if key in _TEMPORARY:
        return Path(_TEMPORARY[key].name)
    folder = cache.find(key, _checked, no_note) if cache.limit else None
    if folder is not None:
        return folder
    frames = sample_frames(film)
    if cache.limit:
        size = 2 * sum(frame.rgb_u8.numel() for frame in frames)
        folder = cache.make(key, _checked, lambda entry: _write(frames, film, entry), size, no_note)
    if folder is None:
        _TEMPORARY[key] = tempfile.TemporaryDirectory(prefix="srkd-frames-")
        folder = Path(_TEMPORARY[key].name)
        with report_unwritable(folder):
            _write(frames, film, folder)
    return folder


def _key(film: Path) -> str:
    """Return a hash of all that the frames depend on: the film's name, size and time, and how they are chosen."""
    with report_unreadable(film):
        status = film.stat()
    facts = LAYOUT_VERSION, FRAMES_OF_A_FILM, load_av().__version__, str(film.resolve()), status.st_size
    return f"frames-{hashlib.blake2b(repr((*facts, status.st_mtime_ns)).encode(), digest_size=16).hexdigest()}"


def _write(frames: Sequence[SampledFrame], film: Path, folder: Path) -> None:
    for frame in frames:
        # No point in the name: it would end the stem.
        path = folder / f"{film.stem}-{round(frame.seconds * 1000):09d}ms.png"
        _write_picture(frame.rgb_u8, path)
        _write_picture(frame.following_u8, _following(path))
    line = f"{len(frames)} frames from {frames[0].seconds:.1f} to {frames[-1].seconds:.1f} s"
    summary = json.dumps({"pictures": 2 * len(frames), "line": line})
    (folder / SUMMARY).write_text(summary, encoding="utf-8")


def _write_picture(rgb_u8: Tensor, path: Path) -> None:
    Image.fromarray(rgb_u8.permute(1, 2, 0).contiguous().numpy()).save(path, compress_level=1)


def _checked(folder: Path) -> Path:
    """Return the folder of an entry that is whole."""
    summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    if sum(path.suffix == ".png" for path in folder.iterdir()) != summary["pictures"]:
        raise SrkdError("frames are missing")
    return folder
