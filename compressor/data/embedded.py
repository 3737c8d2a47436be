"""Photographs that come with srkd, for a run without `--data`: train, validation and calibration parts apart.

All are in the public domain or CC0; embedded/PHOTOS.md names each photographer and source.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from compressor.imagesets import ImagePair

FOLDER = Path(__file__).parent / "embedded"
Part = Literal["train", "val", "calibration"]


def embedded_photos(part: Part) -> dict[str, Path]:
    """Photos of one part, by name."""
    return {path.stem: path for path in sorted((FOLDER / part).glob("*.webp"))}


def embedded_pairs(part: Part) -> tuple[ImagePair, ...]:
    """The same, as HR images whose LR images are to be made."""
    return tuple(ImagePair(stem, path, None) for stem, path in embedded_photos(part).items())
