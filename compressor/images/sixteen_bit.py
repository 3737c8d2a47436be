"""16-bit samples, which Pillow supports for one channel only: read through its decoders, written here.

Reading: Pillow keeps one of the two bytes of a 16-bit sample in a colour picture, chosen by the byte order in the raw
mode. Decoding once with each order gives both bytes, exactly, for every compression that Pillow supports. Writing: PNG
(ISO/IEC 15948, filter Sub) and TIFF 6.0 (Deflate with horizontal differences) are short; Pillow writes neither with
16-bit colours.
"""

from __future__ import annotations

import struct
import sys
import zlib
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from compressor.base.errors import SrkdError

Samples: TypeAlias = "npt.NDArray[np.uint8] | npt.NDArray[np.uint16]"
"""Samples (H,W,C) as stored: grey, grey and alpha, RGB, or RGB and alpha."""

_STRIP_BYTES = 1 << 20
BITS, PHOTOMETRIC, PLANES = 258, 262, 284
"""Tags of TIFF: bits of a sample, what 0 means, and whether colours lie beside each other or in planes."""


def read_samples_16bit(image: Image.Image, path: Path) -> npt.NDArray[np.uint16] | None:
    """Return the (H,W,C) samples of an opened 16-bit picture, or None if it has at most 8 bit per sample."""
    tags: Mapping[int, Any] = getattr(image, "tag_v2", {}) if image.format == "TIFF" else {}
    stored = tags.get(BITS, 8)
    bits = max(stored) if isinstance(stored, tuple) else stored
    if tags.get(PLANES) == 2 and bits > 8:
        raise SrkdError(f"{path} stores its {bits}-bit colours in separate planes: convert it to interleaved colours")
    if image.mode.startswith("I;16"):
        grey = np.asarray(image).astype(np.uint16)[..., None]
        if bits == 12:
            grey = (grey * 16 + grey // 256).astype(np.uint16)
        if tags.get(PHOTOMETRIC) == 0:  # white is zero
            grey = np.subtract(65535, grey, dtype=np.uint16)
        return _with_key_colour(grey, image.info.get("transparency"))
    args = image.tile[0].args if isinstance(image, ImageFile) and image.tile else ""
    rawmode = args[0] if isinstance(args, tuple) and args else args
    layout, separator, order = (rawmode if isinstance(rawmode, str) else "").partition(";16")
    if not separator:
        return None
    if layout == "LA":
        # The four bytes of a pixel are the high and low bytes of grey and alpha.
        parts = _decode_as(image, "RGBA")
        return _join_bytes(parts[..., 0::2], parts[..., 1::2])
    if layout not in ("RGB", "RGBA", "RGBX") or order not in ("L", "B", "N"):
        raise SrkdError(f"{path} stores its 16-bit pixels as {layout!r}: convert it to RGB or RGB with alpha")
    with Image.open(path, formats=[str(image.format)]) as again:
        little, big = _decode_as(image, f"{layout};16L"), _decode_as(again, f"{layout};16B")
    is_little = order == "L" or (order == "N" and sys.byteorder == "little")
    colours = _join_bytes(little, big) if is_little else _join_bytes(big, little)
    return _with_key_colour(colours[..., :3] if layout == "RGBX" else colours, image.info.get("transparency"))


def encode_png_16bit(samples: npt.NDArray[np.uint16], icc: bytes | None, exif: bytes | None) -> bytes:
    """Return a 16-bit PNG file of (H,W,C) samples: grey, grey+alpha, RGB or RGB+alpha."""
    height, width, channels = samples.shape
    colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    parts = [b"\x89PNG\r\n\x1a\n"]
    parts.append(_png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)))
    if icc:
        parts.append(_png_chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(icc)))
    if exif:
        parts.append(_png_chunk(b"eXIf", exif.removeprefix(b"Exif\0\0")))
    packer = zlib.compressobj(6)
    rows = max(1, _STRIP_BYTES // (2 * width * channels))
    for top in range(0, height, rows):
        packed = packer.compress(_sub_filtered(samples[top : top + rows]))
        parts.append(_png_chunk(b"IDAT", packed) if packed else b"")
    parts += [_png_chunk(b"IDAT", packer.flush()), _png_chunk(b"IEND", b"")]
    return b"".join(parts)


def encode_tiff(samples: Samples, icc: bytes | None, exif_tags: Mapping[int, Any]) -> bytes:
    """Return a little-endian TIFF file of (H,W,C) samples of 8 or 16 bit: Deflate, horizontal differences, 1 MB strips.

    16-bit grey with alpha is stored as RGB with alpha, because common readers, including Pillow, refuse it.
    """
    if samples.shape[2] == 2 and samples.dtype == np.uint16:
        samples = samples[..., [0, 0, 0, 1]]
    height, width, channels = samples.shape
    item_bytes = samples.dtype.itemsize
    rows = min(height, max(1, _STRIP_BYTES // (item_bytes * width * channels)))
    strips = [_tiff_strip(samples[top : top + rows]) for top in range(0, height, rows)]
    offsets = [sum(map(len, strips[:index])) for index in range(len(strips))]
    tags: dict[int, Any] = {
        256: width,
        257: height,
        258: (8 * item_bytes,) * channels,
        259: 8,  # compression: Deflate
        262: 2 if channels >= 3 else 1,  # photometric: RGB, or black is zero
        273: tuple(offsets),
        277: channels,
        278: rows,
        279: tuple(map(len, strips)),
        284: 1,  # planar configuration: the samples of a pixel are together
        317: 2,  # predictor: horizontal differences
    }
    if channels in (2, 4):
        tags[338] = 2  # extra sample: alpha, not premultiplied
    if icc:
        tags[34675] = icc
    directory = ImageFileDirectory_v2(prefix=b"II")
    for tag, value in {**exif_tags, **tags}.items():
        directory[tag] = value
    if icc:
        directory.tagtype[34675] = 7
    out = BytesIO()
    directory.save(out)
    return out.getvalue() + b"".join(strips)


def _join_bytes(high: npt.NDArray[np.uint8], low: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint16]:
    return np.left_shift(high, 8, dtype=np.uint16) | low


def _decode_as(image: Image.Image, rawmode: str) -> npt.NDArray[np.uint8]:
    """Return the 8-bit samples that Pillow reads with the layout `rawmode`."""
    if not isinstance(image, ImageFile):
        raise SrkdError(f"a decoded picture of {image.size} has no stored samples left")
    image.tile = [
        tile._replace(args=(rawmode, *tile.args[1:]) if isinstance(tile.args, tuple) else rawmode)
        for tile in image.tile
    ]
    return np.asarray(image)


def _with_key_colour(colours: npt.NDArray[np.uint16], key: object) -> npt.NDArray[np.uint16]:
    """Return the colours with an alpha channel, if a PNG declares one colour transparent."""
    if not isinstance(key, (int, tuple)) or colours.shape[2] not in (1, 3):
        return colours
    clear = (colours == np.asarray(key)).all(axis=2, keepdims=True)
    return np.concatenate([colours, np.where(clear, 0, 65535).astype(np.uint16)], axis=2)


def _png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _sub_filtered(rows: npt.NDArray[np.uint16]) -> bytes:
    """Return rows encoded with PNG's filter Sub: each byte minus the byte one pixel to its left, modulo 256."""
    height, width, channels = rows.shape
    stored = np.ascontiguousarray(rows.astype(">u2")).view(np.uint8).reshape(height, width, 2 * channels)
    differences = stored.copy()
    differences[:, 1:] -= stored[:, :-1]
    filter_type = np.ones((height, 1), np.uint8)
    return np.concatenate([filter_type, differences.reshape(height, -1)], axis=1).tobytes()


def _tiff_strip(rows: Samples) -> bytes:
    differences = rows.copy()
    differences[:, 1:] -= rows[:, :-1]
    return zlib.compress(differences.astype(differences.dtype.newbyteorder("<")).tobytes(), 6)
