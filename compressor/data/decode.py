"""Image files to pixels, several at a time, in the order of asking and with few of them in memory."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch

from compressor.data.store import Skipped
from compressor.errors import SrkdError
from compressor.images import image_size, read_rgb_u8
from compressor.imagesets import ImagePair, LrImage
from compressor.machine import usable_cores
from compressor.resize import Border, downscale_u8, mod_crop

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
