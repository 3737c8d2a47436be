"""Decoding of image files: from or into the cache folder, or into memory."""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import IO, TypeAlias

import PIL
import torch

from compressor.base.cache_folder import CacheFolder, format_bytes
from compressor.base.choices import Border
from compressor.base.context import QUIET, Context, Progress
from compressor.base.errors import SrkdError, report_unreadable
from compressor.base.machine import available_memory, installed_version, torch_threads, usable_cores
from compressor.data.store import (
    LAYOUT_VERSION,
    DecodedImages,
    DecodeInto,
    ImageRecord,
    SkippedImage,
    append_image,
    pixels_of,
    read_entry,
    write_entry,
)
from compressor.images.files import image_size, read_rgb_u8
from compressor.images.resize import downscale_u8, mod_crop
from compressor.images.sets import ImagePair, LrImage

Source: TypeAlias = ImagePair | LrImage
MAX_WORKERS = 8

SMALL_BYTES = 32_000_000
"""Images up to this size in bytes are not cached on disk: decoding them again takes no noticeable time."""

MEMORY_SHARE = 0.6
"""Share of the free memory that images may use."""


def decode_all(
    sources: Sequence[Source],
    *,
    scale: int,
    border: Border = "mirror",
    cache: CacheFolder | None = None,
    context: Context = QUIET,
    small_bytes: int = SMALL_BYTES,
) -> DecodedImages:
    """Return the decoded images, from the cache if no file has changed, and store them there if allowed."""
    note = context.note
    decode_into = partial(_decode_into, sources, scale, border, context.progress)
    pixel_bytes = _estimate_bytes(sources, scale)
    if cache is None or cache.limit == 0:
        return _decode_into_memory(pixel_bytes, decode_into)
    key = _cache_key(sources, scale, border)
    images = cache.find(key, read_entry, note)
    count = "1 image" if len(sources) == 1 else f"{len(sources)} images"
    if images is not None:
        note(f"{count} as decoded before: {cache.path / key} ({format_bytes(images.bytes)})")
        return images
    if pixel_bytes > small_bytes:
        start = time.monotonic()
        images = cache.make(key, read_entry, partial(write_entry, decode_into), pixel_bytes, note)
        if images is not None:
            seconds = time.monotonic() - start
            note(f"{count} decoded in {seconds:.0f} s, kept in {cache.path / key} ({format_bytes(images.bytes)})")
            return images
    return _decode_into_memory(pixel_bytes, decode_into)


def _estimate_bytes(sources: Sequence[Source], scale: int) -> int:
    """Return an upper limit of the bytes of all pixels, from the files' headers."""

    def source_bytes(source: Source) -> int:
        try:
            width, height = image_size(source.path)
        except SrkdError:
            return 0
        return 3 * width * height + (0 if isinstance(source, LrImage) else 3 * (width // scale) * (height // scale))

    with ThreadPoolExecutor(_worker_count()) as pool:
        return sum(pool.map(source_bytes, sources))


def _cache_key(sources: Sequence[Source], scale: int, border: Border) -> str:
    """Return a hash of all that the pixels depend on: names, sizes and times of all files, and the decoding."""
    decoders = PIL.__version__, installed_version("pillow-heif")
    digest = hashlib.blake2b(repr((LAYOUT_VERSION, decoders, scale, border)).encode(), digest_size=16)
    for source in sources:
        paths = [source.lr] if isinstance(source, LrImage) else [source.hr, source.lr]
        digest.update(ascii((source.stem, [_file_identity(path) for path in paths])).encode())
    return f"images-{digest.hexdigest()}"


def _decode_into_memory(size: int, decode_into: DecodeInto) -> DecodedImages:
    available = int(available_memory() * MEMORY_SHARE)
    if size > available:
        raise SrkdError(
            f"the decoded images take {format_bytes(size)}, and there are {format_bytes(available)} of memory for "
            "them: raise --cache-size, point $SRKD_CACHE to a larger disk, or use fewer images"
        )
    return decode_into(BytesIO(), BytesIO())


def _decode_into(
    sources: Sequence[Source], scale: int, border: Border, progress: Progress, lr: IO[bytes], hr: IO[bytes]
) -> DecodedImages:
    images: list[ImageRecord | SkippedImage] = []
    for image in decode_in_order(sources, scale, border):
        if isinstance(image, SkippedImage):
            images.append(image)
        else:
            hr_extent = None if image.hr is None else append_image(hr, image.hr)
            lr_extent = append_image(lr, image.lr)
            images.append(ImageRecord(image.name, image.path, lr_extent, hr_extent, image.digest))
        progress("reading images", len(images), len(sources))
    has_hr = not all(isinstance(source, LrImage) for source in sources)
    return DecodedImages(scale, tuple(images), pixels_of(lr), pixels_of(hr) if has_hr else None)


def _file_identity(path: Path | None) -> tuple[object, ...]:
    """Return values that change with a file, also its inode's time (ctime), as copies may keep the other."""
    if path is None:
        return ()
    with report_unreadable(path):
        stat = path.stat(follow_symlinks=path.exists())  # a broken link is left out, with the reason
    return str(path.absolute()), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


@dataclass(frozen=True)
class DecodedImage:
    """One decoded image: (3,H,W) uint8, contiguous."""

    name: str
    path: Path
    lr: torch.Tensor
    hr: torch.Tensor | None
    digest: str


def decode_in_order(sources: Sequence[Source], scale: int, border: Border) -> Iterator[DecodedImage | SkippedImage]:
    """Yield every source in order, with few in memory; threads, as decoders release Python's lock."""
    count = _worker_count()
    pending: deque[Future[DecodedImage | SkippedImage]] = deque()
    # New threads inherit torch's number of threads: otherwise each worker starts one per core.
    with torch_threads(1 if count > 1 else None), ThreadPoolExecutor(count) as pool:
        try:
            for source in sources:
                pending.append(pool.submit(decode_image, source, scale, border))
                if len(pending) > 2 * count:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def decode_image(source: Source, scale: int, border: Border) -> DecodedImage | SkippedImage:
    """Return an HR image cropped to the scale, with its stored LR image or a bicubic one; or an LR image alone."""
    path = source.path
    try:
        if isinstance(source, LrImage):
            return _decoded_image(source.stem, path, read_rgb_u8(path), None)
        hr_u8 = mod_crop(read_rgb_u8(source.hr), scale).contiguous()
        if source.lr is None:
            return _decoded_image(source.stem, path, downscale_u8(hr_u8, scale, border=border), hr_u8)
        lr_u8 = read_rgb_u8(source.lr)
        expected = (3, hr_u8.shape[1] // scale, hr_u8.shape[2] // scale)
        if tuple(lr_u8.shape) != expected:
            sizes = f"{lr_u8.shape[2]}x{lr_u8.shape[1]}, its HR {source.hr.name} needs {expected[2]}x{expected[1]}"
            return SkippedImage(source.lr, f"LR is {sizes} at x{scale}")
        return _decoded_image(source.stem, path, lr_u8, hr_u8)
    except SrkdError as error:
        return SkippedImage(path, str(error))
    except Exception as error:  # noqa: BLE001
        # One bad file must not end the reading of thousands; run.json lists the errors.
        return SkippedImage(path, f"{path} cannot be read: {type(error).__name__}: {error}")


def _decoded_image(name: str, path: Path, lr_u8: torch.Tensor, hr_u8: torch.Tensor | None) -> DecodedImage:
    digest = hashlib.blake2b(digest_size=16)
    for image in (lr_u8, hr_u8):
        if image is not None:
            digest.update(repr(tuple(image.shape)).encode())
            digest.update(image.numpy().data)
    return DecodedImage(name, path, lr_u8, hr_u8, digest.hexdigest())


def _worker_count() -> int:
    return max(1, min(usable_cores() or 1, MAX_WORKERS))
