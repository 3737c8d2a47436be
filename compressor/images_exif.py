"""EXIF of pictures: orientation applied and taken out, sizes kept true, the old file's layout left behind."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

Samples: TypeAlias = "npt.NDArray[np.uint8] | npt.NDArray[np.uint16]"
"""(H,W,C) as stored: grey, grey and alpha, RGB, or RGB and alpha."""

ORIENTATION, EXIF_IFD, GPS_IFD = 0x0112, 0x8769, 0x8825
PIXEL_WIDTH, PIXEL_HEIGHT = 0xA002, 0xA003
DESCRIPTIVE = frozenset({270, 271, 272, 282, 283, 296, 305, 306, 315, 316, 33432, EXIF_IFD, GPS_IFD})
"""Description, maker, model, resolution and its unit, software, date, artist, host, copyright, camera and GPS blocks:
of a TIFF file's tags those that do not describe how its pixels are laid out."""


def without_orientation(image: Image.Image) -> tuple[bytes | None, int]:
    """The EXIF block to give back, without its orientation tag, and the orientation (1..8)."""
    try:
        exif = image.getexif()
        orientation = exif.pop(ORIENTATION, 1)
        if image.format == "TIFF":
            for directory in (EXIF_IFD, GPS_IFD):
                exif.get_ifd(directory)
            for tag in set(exif) - DESCRIPTIVE:
                del exif[tag]
        block = exif.tobytes() if len(exif) else None
    except Exception:  # noqa: BLE001
        # Damaged EXIF is no reason to refuse a sound picture, and its parser fails with any class of exception.
        return None, 1
    return block, (orientation if orientation in range(1, 9) else 1)


def resized(exif_block: bytes | None, width: int, height: int) -> bytes | None:
    """The block with its pixel sizes, where it states any, set to the new ones."""
    if exif_block is None:
        return None
    exif = Image.Exif()
    exif.load(exif_block)
    camera = exif.get_ifd(EXIF_IFD)
    if PIXEL_WIDTH in camera or PIXEL_HEIGHT in camera:
        camera[PIXEL_WIDTH], camera[PIXEL_HEIGHT] = width, height
    return exif.tobytes()


def upright(samples: Samples, orientation: int) -> Samples:
    """(H,W,C) samples turned as the orientation tag says (EXIF 2.3, 4.6.4 A: row 0 and column 0 of the picture)."""
    if orientation >= 5:
        samples = samples.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        samples = samples[::-1]
    if orientation in (2, 3, 6, 7):
        samples = samples[:, ::-1]
    return samples
