"""Reading and writing of picture files: grey, 16 bit, alpha, ICC profile and EXIF are preserved.

A `Picture` is a file's content as upright RGB in [0,1] and the metadata to write back; a `Raster` is its samples as
decoded. EXIF: the orientation is applied and removed, sizes are updated, and tags about the old file's layout are
dropped.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageCms, UnidentifiedImageError
from torch import Tensor

from compressor.base.errors import MissingExtra, SrkdError
from compressor.base.files import atomic_path, require_regular
from compressor.images.sixteen_bit import Samples, encode_png_16bit, encode_tiff, read_samples_16bit
from compressor.images.suffixes import FORMAT_OF_SUFFIX

MAX_PIXELS = 178_956_970
"""Most pixels of a picture (Pillow's own limit for decompression bombs); larger ones are refused before decoding."""

LOSSY_TIFF = ("jpeg", "tiff_jpeg", "webp")
"""TIFF compressions, by Pillow's names, that change pixels."""
LONGEST_SIDE = {"JPEG": 65_500, "WEBP": 16_383}
GREY_WEIGHTS = (0.299, 0.587, 0.114)
_MODE_8BIT = {"1": "L", "L": "L", "LA": "LA", "La": "LA", "P": "RGB", "PA": "RGBA", "RGB": "RGB", "RGBX": "RGB"}
_MODE_8BIT |= {"RGBA": "RGBA", "RGBa": "RGBA", "CMYK": "RGB", "YCbCr": "RGB"}
_GREY_STEPS = {"L;2": 85, "L;4": 17}
"""The step between grey values of 2 and 4 bit when they are decoded to 8 bit."""
_ENCODER_OPTIONS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"quality": 95, "method": 4},
}
_LOSSLESS_WEBP_OPTIONS: dict[str, Any] = {"lossless": True, "exact": True, "method": 4}
"""`exact` also keeps the colours of fully transparent pixels."""
ORIENTATION, EXIF_IFD, GPS_IFD = 0x0112, 0x8769, 0x8825
PIXEL_WIDTH, PIXEL_HEIGHT = 0xA002, 0xA003
DESCRIPTIVE = frozenset({270, 271, 272, 282, 283, 296, 305, 306, 315, 316, 33432, EXIF_IFD, GPS_IFD})
"""The tags of a TIFF file that do not describe the layout of its pixels: description, maker, model, resolution and its
unit, software, date, artist, host, copyright, camera and GPS blocks."""


@dataclass(frozen=True)
class Picture:
    """One picture: rgb (3,H,W) and alpha (1,H,W), upright float32 in [0,1], and how the file stored it."""

    rgb: Tensor
    alpha: Tensor | None = None
    grey: bool = False
    bits: Literal[8, 16] = 8
    icc: bytes | None = None
    exif: bytes | None = None
    format: str = "PNG"
    lossless: bool = False
    """True if the file's compression is lossless; a WebP output, which can be either, then is lossless too."""
    frames: int = 1
    """Frames of the animation that it is the first of."""


@dataclass(frozen=True)
class Raster:
    """Decoded samples, upright: (H,W,C) uint8 or uint16, with C for grey, grey+alpha, RGB or RGB+alpha."""

    samples: Samples
    icc: bytes | None
    exif: bytes | None
    format: str
    lossless: bool
    frames: int

    @property
    def colours(self) -> Samples:
        channels = self.samples.shape[2]
        return self.samples[..., : channels - 1] if channels in (2, 4) else self.samples

    @property
    def alpha(self) -> Samples | None:
        return self.samples[..., -1:] if self.samples.shape[2] in (2, 4) else None


def read_picture(path: Path) -> Picture:
    """Read a picture file, of an animation the first frame; a file that cannot be read is a one-line SrkdError."""
    raster = _decode(Path(path))
    grey = raster.colours.shape[2] == 1
    colours = to_01(raster.colours)
    return Picture(
        rgb=colours.expand(3, -1, -1).contiguous() if grey else colours,
        alpha=None if raster.alpha is None else to_01(raster.alpha),
        grey=grey,
        bits=16 if raster.samples.dtype == np.uint16 else 8,
        icc=raster.icc,
        exif=raster.exif,
        format=raster.format,
        lossless=raster.lossless,
        frames=raster.frames,
    )


def read_rgb_u8(path: Path) -> Tensor:
    """Read (3,H,W) uint8 for training and scoring: upright, grey replicated, alpha dropped, 16 bit rounded to 8."""
    return read_rgb_u8_and_grey(path)[0]


def read_rgb_u8_and_grey(path: Path) -> tuple[Tensor, bool]:
    """Read as `read_rgb_u8` does, and also return True if the file stores one colour channel."""
    raster = _decode(Path(path))
    if raster.frames > 1:
        raise SrkdError(f"{path} holds {raster.frames} frames: split it into single pictures")
    colours = raster.colours
    if colours.dtype == np.uint16:
        colours = ((colours.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    planes = torch.from_numpy(colours.transpose(2, 0, 1).copy())
    grey = planes.shape[0] == 1
    return (planes.expand(3, -1, -1).contiguous() if grey else planes), grey


def image_size(path: Path) -> tuple[int, int]:
    """Return the upright width and height from the header, without decoding the pixels."""
    with _opened(Path(path)) as image:
        width, height = image.size
        # Pillow rotates TIFF files itself, and would read a PNG file to its end to look for EXIF after the pixels.
        may_turn = image.format != "TIFF" and (image.format != "PNG" or "exif" in image.info)
        return (height, width) if may_turn and split_orientation(image)[1] >= 5 else (width, height)


def write_picture(picture: Picture, path: Path) -> None:
    """Write atomically, in the format of `path`'s suffix; JPEG, WebP and BMP store 8 bit, BMP no profile or EXIF."""
    path = Path(path)
    height, width = picture.rgb.shape[-2:]
    kind = require_writable(path, (width, height), alpha=picture.alpha is not None)
    colours = grey_of(picture.rgb) if picture.grey else picture.rgb
    planes = colours if picture.alpha is None else torch.cat([colours, picture.alpha])
    bits: Literal[8, 16] = 16 if picture.bits == 16 and kind in ("PNG", "TIFF") else 8
    samples = quantised(planes, bits)
    exif = _with_size(picture.exif, width, height)
    with atomic_path(path) as temporary:
        try:
            if kind == "TIFF":
                temporary.write_bytes(encode_tiff(samples, picture.icc, _exif_tags(exif)))
            elif bits == 16:
                temporary.write_bytes(encode_png_16bit(samples.astype(np.uint16, copy=False), picture.icc, exif))
            else:
                _save_8bit(picture, samples, temporary, kind, exif)
        except (ValueError, MemoryError) as error:
            raise SrkdError(f"cannot write {path}: {error}") from error


def require_writable(path: Path, size: tuple[int, int], *, alpha: bool) -> str:
    """Return the format of `path`; refuse one that cannot store a picture of (width, height), before any work."""
    suffix = path.suffix.lower()
    if suffix not in FORMAT_OF_SUFFIX:
        raise SrkdError(f"{path}: pictures end in {' '.join(sorted(FORMAT_OF_SUFFIX))}, not in {suffix or 'nothing'!r}")
    kind = FORMAT_OF_SUFFIX[suffix]
    if kind in ("JPEG", "BMP") and alpha:
        raise SrkdError(f"cannot write {path}: {kind} holds no transparency, choose .png, .webp or .tiff")
    longest = LONGEST_SIDE.get(kind, max(size))
    if max(size) > longest:
        raise SrkdError(f"cannot write {path}: {kind} holds {longest} pixels a side, not {size[0]}x{size[1]}")
    return kind


def grey_of(rgb_01: Tensor) -> Tensor:
    """Return the grey (1,H,W) of (3,H,W): 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601)."""
    weights = torch.tensor(GREY_WEIGHTS, dtype=rgb_01.dtype, device=rgb_01.device)
    return (rgb_01 * weights[:, None, None]).sum(dim=0, keepdim=True)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open an image file and check its header; every failure becomes one SrkdError."""
    try:
        require_regular(path)
        with closing(Image.open(path, formats=_readable(path))) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise SrkdError(
                    f"{path} has {width}x{height} pixels, more than the {MAX_PIXELS:,} allowed: cut it into pieces"
                )
            if not width * height:
                raise SrkdError(f"{path} has no pixels: its size is {width}x{height}")
            if image.format == "TIFF" and (pages := getattr(image, "n_frames", 1)) > 1:
                raise SrkdError(f"{path} holds {pages} pages: split it into single pictures")
            yield image
    except SrkdError:
        raise
    except FileNotFoundError as error:
        raise SrkdError(f"{path} {'is a link to what ' if path.is_symlink() else ''}does not exist") from error
    except UnidentifiedImageError as error:
        kinds = "PNG, JPEG, WebP, TIFF, BMP, AVIF, HEIC or GIF"
        raise SrkdError(f"{path} is not a picture that can be read ({kinds})") from error
    except Image.DecompressionBombError as error:
        raise SrkdError(f"{path} has more than the {MAX_PIXELS:,} pixels allowed: cut it into pieces") from error
    except Exception as error:
        # Pillow's decoders raise almost any exception class on damaged files (struct.error, KeyError, ...).
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise SrkdError(f"{path} cannot be read: {reason}") from error


def _readable(path: Path) -> list[str]:
    """The formats that are read, by Pillow's names; HEIC is that of the extra heif."""
    if path.suffix.lower() not in (".heic", ".heif"):
        return ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "AVIF", "GIF"]
    try:
        import pillow_heif
    except ImportError as error:
        raise MissingExtra(f"{path}: pillow-heif, which reads HEIC,", "heif") from error
    pillow_heif.register_heif_opener()
    return ["HEIF"]


def _decode(path: Path) -> Raster:
    with _opened(path) as image:
        kind = "JPEG" if image.format == "MPO" else str(image.format)
        # A CMYK profile does not describe the RGB pixels of the output.
        icc = None if image.mode == "CMYK" else image.info.get("icc_profile") or None
        # Decode the pixels before EXIF: reading EXIF can decode them to 8 bit, and decoding can rotate them upright.
        in_16bit = read_samples_16bit(image, path)
        samples: Samples = samples_8bit(image, path) if in_16bit is None else in_16bit
        exif, orientation = split_orientation(image)
        # Phones append a second picture to a JPEG (MPO); the first is the photo.
        frames = 1 if kind in ("JPEG", "HEIF") else getattr(image, "n_frames", 1)
        is_lossless = kind in ("PNG", "BMP", "GIF") or (kind == "WEBP" and _is_lossless_webp(path))
        is_lossless = is_lossless or (kind == "TIFF" and image.info.get("compression") not in LOSSY_TIFF)
    # EXIF 2.3, 4.6.4 A: row 0 and column 0 of the picture.
    if orientation >= 5:
        samples = samples.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        samples = samples[::-1]
    if orientation in (2, 3, 6, 7):
        samples = samples[:, ::-1]
    return Raster(samples, icc, exif, kind, is_lossless, frames)


def _is_lossless_webp(path: Path) -> bool:
    """Return True if the first picture of a WebP file is a VP8L chunk (RFC 9649, 2.6), which Pillow does not report."""
    with open(path, "rb") as file:
        file.seek(12)  # RIFF, size, WEBP
        while len(header := file.read(8)) == 8:
            if header[:4] in (b"VP8L", b"VP8 "):
                return header[:4] == b"VP8L"
            # An animation frame starts with 16 bytes of its own before its chunks; sizes are padded to even numbers.
            size = int.from_bytes(header[4:], "little")
            file.seek(16 if header[:4] == b"ANMF" else size + size % 2, 1)
    return False


def samples_8bit(image: Image.Image, name: object) -> npt.NDArray[np.uint8]:
    if image.mode not in _MODE_8BIT:
        raise SrkdError(f"{name} stores pixels as {image.mode!r}: convert it to 8 or 16 bit grey or RGB")
    mode = _MODE_8BIT[image.mode]
    _scale_key_colour(image)
    if "transparency" in image.info and not mode.endswith("A"):
        mode = {"L": "LA", "RGB": "RGBA"}[mode]
    samples = np.asarray(
        _to_srgb(image, image.info.get("icc_profile")) if image.mode == "CMYK" else image.convert(mode)
    )
    return samples[..., None] if samples.ndim == 2 else samples


def _scale_key_colour(image: Image.Image) -> None:
    """Bring the transparent value of a grey PNG of 2 or 4 bits to the 8 bits to which Pillow decodes the others.

    It is known by the way in which the image is still to be decoded: without effect for one that was.
    """
    stored = [str(tile[3]) for tile in getattr(image, "tile", ())]
    step = next((_GREY_STEPS[kind] for kind in stored if kind in _GREY_STEPS), 1)
    if step > 1 and isinstance(transparent := image.info.get("transparency"), int):
        image.load()  # first: one that cannot be decoded stays as it is
        image.info["transparency"] = step * transparent


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert inks or grey, perhaps with alpha, by the profile if it is usable; else by complements, or as they are."""
    colours = image if image.mode != "LA" else image.getchannel(0)
    converted = None
    if profile:
        with suppress(OSError, ImageCms.PyCMSError):
            stored = ImageCms.ImageCmsProfile(BytesIO(profile))
            converted = ImageCms.profileToProfile(colours, stored, ImageCms.createProfile("sRGB"), outputMode="RGB")
    converted = converted or colours.convert("RGB")
    if image.mode == "LA":
        converted.putalpha(image.getchannel(1))
    return converted


def to_01(samples: Samples) -> Tensor:
    largest = np.iinfo(samples.dtype).max
    return torch.from_numpy(samples.transpose(2, 0, 1).astype(np.float32, order="C")).div_(largest)


def quantised(planes_01: Tensor, bits: int) -> Samples:
    """Return (H,W,C) integers of (C,H,W) floats: half rounded up, clipped, one channel at a time to save memory."""
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


def _save_8bit(picture: Picture, samples: Samples, path: Path, kind: str, exif: bytes | None) -> None:
    image, icc = Image.fromarray(samples[..., 0] if samples.shape[2] == 1 else samples), picture.icc
    if kind == "WEBP" and icc is not None and icc[16:20] == b"GRAY":
        image, icc = _to_srgb(image, icc), None  # WebP holds RGB alone, which a profile of grey cannot describe
    options = dict(_LOSSLESS_WEBP_OPTIONS if picture.lossless and kind == "WEBP" else _ENCODER_OPTIONS.get(kind, {}))
    if kind != "BMP":
        options |= {"icc_profile": icc} | ({"exif": exif} if exif else {})
    image.save(path, format=kind, **options)


def split_orientation(image: Image.Image) -> tuple[bytes | None, int]:
    """Return the EXIF block to write back, without its orientation tag, and the orientation (1..8)."""
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
        # Damaged EXIF is no reason to refuse an intact picture, and its parser raises any class of exception.
        return None, 1
    return block, (orientation if orientation in range(1, 9) else 1)


def _with_size(exif_block: bytes | None, width: int, height: int) -> bytes | None:
    """Return the EXIF block with its pixel size tags, if it has any, set to the new size."""
    if exif_block is None:
        return None
    exif = Image.Exif()
    exif.load(exif_block)
    camera = exif.get_ifd(EXIF_IFD)
    if PIXEL_WIDTH in camera or PIXEL_HEIGHT in camera:
        camera[PIXEL_WIDTH], camera[PIXEL_HEIGHT] = width, height
    return exif.tobytes()


def _exif_tags(exif_block: bytes | None) -> dict[int, Any]:
    if exif_block is None:
        return {}
    exif = Image.Exif()
    exif.load(exif_block)
    blocks = {tag: dict(exif.get_ifd(tag)) for tag in (EXIF_IFD, GPS_IFD) if tag in exif}
    return dict(exif) | blocks
