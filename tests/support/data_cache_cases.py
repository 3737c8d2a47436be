"""Photos of noise, and helpers for the tests of their cache."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from compressor.base.cache_folder import CacheFolder
from compressor.base.context import Context
from compressor.data.batches import Batches
from compressor.data.decode import decode_all
from compressor.data.store import DecodedImages
from compressor.images.sets import ImagePair


def noise(h: int, w: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (h, w, 3), dtype=np.uint8)


def write_photos(folder: Path, count: int = 3, seed: int = 0) -> list[ImagePair]:
    folder.mkdir(exist_ok=True)
    pairs = []
    for index in range(count):
        path = folder / f"{index}.png"
        Image.fromarray(noise(40 + 4 * index, 48, seed + index)).save(path)
        pairs.append(ImagePair(path.stem, path, None))
    return pairs


def read(pairs: list[ImagePair], cache: CacheFolder | None, notes: list[str] | None = None) -> DecodedImages:
    """Decode the photos; also cache small ones."""
    context = Context(note=(lambda line: None) if notes is None else notes.append)
    return decode_all(pairs, scale=4, cache=cache, context=context, small_bytes=0)


def entries(cache: CacheFolder) -> list[Path]:
    return sorted(path for path in cache.path.iterdir() if path.is_dir())


def batches(decoded: DecodedImages) -> Batches:
    return Batches.for_store(decoded.select(lr_patch=6), batch=8, lr_patch=6, seed=5)
