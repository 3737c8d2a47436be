"""Picture files in and out: grey stays grey, 16 bit stays 16 bit, alpha, ICC profile and EXIF survive.

A `Picture` is what the files mean (upright RGB in [0,1] plus what must be given back), a `Raster` is what they store.

16 bit a sample, which Pillow holds for one channel only: read through its decoders, written here.

Reading: of a 16-bit sample in a colour picture Pillow keeps one of the two bytes, and which one depends on the byte
order it is told. Decoding once with each order gives both bytes, exactly, for every compression Pillow knows.
Writing: PNG (ISO/IEC 15948, filter Sub) and TIFF 6.0 (Deflate with horizontal differences) are short.

EXIF of pictures: orientation applied and taken out, sizes kept true, the old file's layout left behind.
"""

from __future__ import annotations

import struct
import sys
import zlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageCms, UnidentifiedImageError
from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import ImageFileDirectory_v2
from torch import Tensor

from compressor.base.errors import SrkdError
from compressor.base.files import atomic_path

FORMAT_OF_SUFFIX = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
}
IMAGE_SUFFIXES: frozenset[str] = frozenset(FORMAT_OF_SUFFIX)
MAX_PIXELS = 178_956_970
"""Pictures beyond this (Pillow's own limit for decompression bombs) are refused before a pixel is decoded."""

LONGEST_SIDE = {"JPEG": 65_500, "WEBP": 16_383}
GREY_WEIGHTS = (0.299, 0.587, 0.114)
_MODE_8BIT = {"1": "L", "L": "L", "LA": "LA", "La": "LA", "P": "RGB", "PA": "RGBA", "RGB": "RGB", "RGBX": "RGB"}
_MODE_8BIT |= {"RGBA": "RGBA", "RGBa": "RGBA", "CMYK": "RGB", "YCbCr": "RGB"}
_ENCODER_OPTIONS: dict[str, dict[str, Any]] = {
    "PNG": {},
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"quality": 95, "method": 4},
    "BMP": {},
}


@dataclass(frozen=True)
class Picture:
    """One picture: rgb (3,H,W) and alpha (1,H,W) float32 in [0,1], upright, and how its file stored it."""

    rgb: Tensor
    alpha: Tensor | None = None
    grey: bool = False
    bits: Literal[8, 16] = 8
    icc: bytes | None = None
    exif: bytes | None = None
    format: str = "PNG"


@dataclass(frozen=True)
class Raster:
    """Samples as decoded: (H,W,C) of uint8 or uint16, C of grey, grey+alpha, RGB or RGB+alpha; upright."""

    samples: Samples
    icc: bytes | None
    exif: bytes | None
    format: str

    @property
    def colours(self) -> Samples:
        channels = self.samples.shape[2]
        return self.samples[..., : channels - 1] if channels in (2, 4) else self.samples

    @property
    def alpha(self) -> Samples | None:
        return self.samples[..., -1:] if self.samples.shape[2] in (2, 4) else None


def read_picture(path: Path) -> Picture:
    """Read a PNG, JPEG, WebP, TIFF or BMP file; anything that cannot be read is a one-line SrkdError."""
    raster = _decode(Path(path))
    grey = raster.colours.shape[2] == 1
    colours = _to_01(raster.colours)
    return Picture(
        rgb=colours.expand(3, -1, -1).contiguous() if grey else colours,
        alpha=None if raster.alpha is None else _to_01(raster.alpha),
        grey=grey,
        bits=16 if raster.samples.dtype == np.uint16 else 8,
        icc=raster.icc,
        exif=raster.exif,
        format=raster.format,
    )


def read_rgb_u8(path: Path) -> Tensor:
    """(3,H,W) uint8 for training and scoring: grey replicated, alpha dropped, 16 bit rounded to 8, upright."""
    return read_rgb_u8_and_grey(path)[0]


def read_rgb_u8_and_grey(path: Path) -> tuple[Tensor, bool]:
    """`read_rgb_u8`, and whether the file stores one channel."""
    colours = _decode(Path(path)).colours
    if colours.dtype == np.uint16:
        colours = ((colours.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    planes = torch.from_numpy(colours.transpose(2, 0, 1).copy())
    grey = planes.shape[0] == 1
    return (planes.expand(3, -1, -1).contiguous() if grey else planes), grey


def image_size(path: Path) -> tuple[int, int]:
    """Upright width and height from the header, without decoding the pixels."""
    with _Opened(Path(path)) as image:
        width, height = image.size
        # Pillow turns TIFF files itself, and reads a PNG file to its end to look for EXIF behind the pixels.
        told = image.format != "TIFF" and (image.format != "PNG" or "exif" in image.info)
        return (height, width) if told and without_orientation(image)[1] >= 5 else (width, height)


def write_picture(picture: Picture, path: Path) -> None:
    """Write by the suffix of `path`, whole or not at all; JPEG, WebP and BMP hold 8 bit, BMP no profile and no EXIF."""
    path = Path(path)
    height, width = picture.rgb.shape[-2:]
    kind = require_writable(path, (width, height), alpha=picture.alpha is not None)
    colours = grey_of(picture.rgb) if picture.grey else picture.rgb
    planes = colours if picture.alpha is None else torch.cat([colours, picture.alpha])
    bits: Literal[8, 16] = 16 if picture.bits == 16 and kind in ("PNG", "TIFF") else 8
    samples = _quantised(planes, bits)
    exif = resized(picture.exif, width, height)
    with atomic_path(path) as temporary:
        try:
            if kind == "TIFF":
                temporary.write_bytes(tiff(samples, picture.icc, exif))
            elif bits == 16:
                temporary.write_bytes(deep_png(samples.astype(np.uint16, copy=False), picture.icc, exif))
            else:
                _save_8bit(samples, temporary, kind, picture.icc, exif)
        except (ValueError, MemoryError) as error:
            raise SrkdError(f"cannot write {path}: {error}") from error


def require_writable(path: Path, size: tuple[int, int], *, alpha: bool) -> str:
    """The format that `path` stands for, if it holds a picture of (width, height); told before work is spent on it."""
    kind = format_of(path)
    if kind in ("JPEG", "BMP") and alpha:
        raise SrkdError(f"cannot write {path}: {kind} holds no transparency, choose .png, .webp or .tiff")
    longest = LONGEST_SIDE.get(kind, max(size))
    if max(size) > longest:
        raise SrkdError(f"cannot write {path}: {kind} holds {longest} pixels a side, not {size[0]}x{size[1]}")
    return kind


def format_of(path: Path) -> str:
    """The format a suffix stands for."""
    suffix = path.suffix.lower()
    if suffix not in FORMAT_OF_SUFFIX:
        raise SrkdError(f"{path}: pictures end in {' '.join(sorted(IMAGE_SUFFIXES))}, not in {suffix or 'nothing'!r}")
    return FORMAT_OF_SUFFIX[suffix]


def grey_of(rgb_01: Tensor) -> Tensor:
    """Grey of (3,H,W): 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601), (1,H,W)."""
    weights = torch.tensor(GREY_WEIGHTS, dtype=rgb_01.dtype, device=rgb_01.device)
    return (rgb_01 * weights[:, None, None]).sum(dim=0, keepdim=True)


class _Opened:
    """An image file opened and its header checked; every way of failing becomes one SrkdError."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> Image.Image:
        try:
            self.image = Image.open(self.path, formats=["PNG", "JPEG", "WEBP", "TIFF", "BMP"])
        except Exception as error:
            raise _unreadable(self.path, error) from error
        try:
            _check_header(self.image, self.path)
        except SrkdError:
            self.image.close()
            raise
        return self.image

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.image.close()
        # Pillow's decoders fail with almost any class on damaged files (struct.error, KeyError, SyntaxError, ...).
        if isinstance(error, Exception) and not isinstance(error, SrkdError):
            raise _unreadable(self.path, error) from error


def _check_header(image: Image.Image, path: Path) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise SrkdError(f"{path} has {width}x{height} pixels, more than the {MAX_PIXELS:,} allowed: cut it into pieces")
    if not width * height:
        raise SrkdError(f"{path} has no pixels: its size is {width}x{height}")
    try:
        frames = getattr(image, "n_frames", 1)
    except Exception as error:
        raise _unreadable(path, error) from error
    # Phones append a second picture to a JPEG (MPO); the first is the photo.
    if frames > 1 and image.format not in ("JPEG", "MPO"):
        raise SrkdError(f"{path} holds {frames} frames or pages: split it into single pictures")


def _unreadable(path: Path, error: Exception) -> SrkdError:
    if isinstance(error, FileNotFoundError):
        return SrkdError(f"{path} does not exist")
    if isinstance(error, UnidentifiedImageError):
        return SrkdError(f"{path} is not a picture that can be read (PNG, JPEG, WebP, TIFF or BMP)")
    if isinstance(error, Image.DecompressionBombError):
        return SrkdError(f"{path} has more than the {MAX_PIXELS:,} pixels allowed: cut it into pieces")
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return SrkdError(f"{path} cannot be read: {reason}")


def _decode(path: Path) -> Raster:
    with _Opened(path) as image:
        kind = "JPEG" if image.format == "MPO" else str(image.format)
        # A CMYK profile says nothing about the RGB pixels that leave.
        icc = None if image.mode == "CMYK" else image.info.get("icc_profile") or None
        # The pixels come before EXIF: looking for EXIF can decode them, to 8 bit, and decoding can turn them upright.
        samples: Samples | None = deep_samples(image, path)
        if samples is None:
            samples = _samples_8bit(image, path)
        exif, orientation = without_orientation(image)
    return Raster(upright(samples, orientation), icc, exif, kind)


def _samples_8bit(image: Image.Image, path: Path) -> npt.NDArray[np.uint8]:
    if image.mode not in _MODE_8BIT:
        raise SrkdError(f"{path} stores pixels as {image.mode!r}: convert it to 8 or 16 bit grey or RGB")
    mode = _MODE_8BIT[image.mode]
    if "transparency" in image.info and not mode.endswith("A"):
        mode = {"L": "LA", "RGB": "RGBA"}[mode]
    samples = np.asarray(_cmyk_to_srgb(image) if image.mode == "CMYK" else image.convert(mode))
    return samples[..., None] if samples.ndim == 2 else samples


def _cmyk_to_srgb(image: Image.Image) -> Image.Image:
    """By the profile of the inks where the file holds a usable one, otherwise by plain complements."""
    profile = image.info.get("icc_profile")
    if not profile:
        return image.convert("RGB")
    try:
        inks = ImageCms.ImageCmsProfile(BytesIO(profile))
        turned = ImageCms.profileToProfile(image, inks, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (OSError, ImageCms.PyCMSError):
        return image.convert("RGB")
    return turned or image.convert("RGB")


def _to_01(samples: Samples) -> Tensor:
    largest = np.iinfo(samples.dtype).max
    planes = samples.transpose(2, 0, 1).astype(np.float32, order="C")
    return torch.from_numpy(planes).div_(largest)


def _quantised(planes_01: Tensor, bits: int) -> Samples:
    """(C,H,W) floats to (H,W,C) whole numbers: half rounded up, clipped; one channel at a time, to spare memory."""
    largest = 2**bits - 1
    channels, height, width = planes_01.shape
    shape = (height, width, channels)
    samples: Samples = np.empty(shape, np.uint16) if bits == 16 else np.empty(shape, np.uint8)
    for channel, plane in enumerate(planes_01.detach()):
        whole = plane.cpu().float().mul(largest).add_(0.5).floor_().clamp_(0, largest)
        if whole.isnan().any():
            raise SrkdError("a picture to be written holds values that are not numbers: the network failed on it")
        samples[..., channel] = whole.numpy()
    return samples


def _save_8bit(samples: Samples, path: Path, kind: str, icc: bytes | None, exif: bytes | None) -> None:
    squeezed = samples[..., 0] if samples.shape[2] == 1 else samples
    image = Image.fromarray(squeezed)
    options = dict(_ENCODER_OPTIONS[kind])
    if kind != "BMP":
        options |= {"icc_profile": icc} | ({"exif": exif} if exif else {})
    image.save(path, format=kind, **options)


_STRIP_BYTES = 1 << 20


def deep_samples(image: Image.Image, path: Path) -> npt.NDArray[np.uint16] | None:
    """(H,W,C) samples of an opened 16-bit picture, or None where it holds 8 bit a sample or less."""
    # Pillow before 11 opens 16-bit grey PNG files in mode I.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        grey = np.asarray(image).astype(np.uint16)[..., None]
        return _with_key_colour(grey, image.info.get("transparency"))
    layout, deep, order = _rawmode(image).partition(";16")
    if not deep:
        return None
    if layout == "LA":
        # Four bytes a pixel: taken as they are, they are the high and low bytes of grey and alpha.
        parts = _decoded(image, "RGBA")
        return _joined(parts[..., 0::2], parts[..., 1::2])
    if layout not in ("RGB", "RGBA", "RGBX") or order not in ("L", "B", "N"):
        raise SrkdError(f"{path} stores its 16-bit pixels as {layout!r}: convert it to RGB or RGB with alpha")
    with Image.open(path, formats=[str(image.format)]) as again:
        as_little, as_big = _decoded(image, f"{layout};16L"), _decoded(again, f"{layout};16B")
    little = order == "L" or (order == "N" and sys.byteorder == "little")
    colours = _joined(as_little, as_big) if little else _joined(as_big, as_little)
    return _with_key_colour(colours[..., :3] if layout == "RGBX" else colours, image.info.get("transparency"))


def deep_png(samples: npt.NDArray[np.uint16], icc: bytes | None, exif: bytes | None) -> bytes:
    """A 16-bit PNG file of (H,W,C) samples: grey, grey+alpha, RGB or RGB+alpha."""
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


def tiff(samples: Samples, icc: bytes | None, exif: bytes | None) -> bytes:
    """A little-endian TIFF file of (H,W,C) samples of 8 or 16 bit: Deflate, horizontal differences, strips of 1 MB.

    Grey with alpha of 16 bit is stored as RGB with alpha, because common readers, Pillow among them, refuse it.
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
        284: 1,  # planar configuration: samples of a pixel together
        317: 2,  # predictor: horizontal differences
    }
    if channels in (2, 4):
        tags[338] = 2  # extra sample: alpha, not premultiplied
    if icc:
        tags[34675] = icc
    directory = ImageFileDirectory_v2(prefix=b"II")
    for tag, value in (_exif_tags(exif) | tags).items():
        directory[tag] = value
    if icc:
        directory.tagtype[34675] = 7
    out = BytesIO()
    directory.save(out)
    return out.getvalue() + b"".join(strips)


def _exif_tags(exif_block: bytes | None) -> dict[int, Any]:
    if exif_block is None:
        return {}
    exif = Image.Exif()
    exif.load(exif_block)
    blocks = {tag: dict(exif.get_ifd(tag)) for tag in (EXIF_IFD, GPS_IFD) if tag in exif}
    return dict(exif) | blocks


def _joined(high: npt.NDArray[np.uint8], low: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint16]:
    return np.left_shift(high, 8, dtype=np.uint16) | low


def _rawmode(image: Image.Image) -> str:
    args = image.tile[0].args if isinstance(image, ImageFile) and image.tile else ""
    first = args[0] if isinstance(args, tuple) and args else args
    return first if isinstance(first, str) else ""


def _decoded(image: Image.Image, rawmode: str) -> npt.NDArray[np.uint8]:
    """The 8-bit samples Pillow takes for the stored ones when it is told that they are laid out as `rawmode`."""
    if not isinstance(image, ImageFile):
        raise SrkdError(f"a decoded picture of {image.size} has no stored samples left")
    image.tile = [
        tile._replace(args=(rawmode, *tile.args[1:]) if isinstance(tile.args, tuple) else rawmode)
        for tile in image.tile
    ]
    return np.asarray(image)


def _with_key_colour(colours: npt.NDArray[np.uint16], key: object) -> npt.NDArray[np.uint16]:
    """Add the alpha of a PNG that names one colour as transparent."""
    if not isinstance(key, (int, tuple)) or colours.shape[2] not in (1, 3):
        return colours
    clear = (colours == np.asarray(key)).all(axis=2, keepdims=True)
    return np.concatenate([colours, np.where(clear, 0, 65535).astype(np.uint16)], axis=2)


def _png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _sub_filtered(rows: npt.NDArray[np.uint16]) -> bytes:
    """Rows as PNG stores them with filter Sub: each byte minus the byte one pixel to its left, modulo 256."""
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
