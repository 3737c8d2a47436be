"""What a folder of LR pictures suffers: noise, blur and the blocks of JPEG, measured picture by picture.

These are estimates, to begin with: the pictures alone do not tell a soft subject from a blurred one.

- JPEG: a file's own tables tell its quality. Other files may have been JPEG before: in blocks of 8×8 pixels their
  cosine coefficients lie near multiples of a quality's steps (Farid, 'Exposing digital forgeries from JPEG ghosts',
  2009).
- Noise: the finest diagonal Haar coefficients of green, 1.25 times the mean of their magnitudes, in the calmest
  windows of the picture; there a picture has little else.
- Blur: a Gaussian blur of σ takes e^(-σ²ω²) of the power at ω. The power at high frequencies over that at middle ones,
  less the noise, is compared with the same of srkd's own photos.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from compressor.base.context import QUIET, Context
from compressor.base.errors import UsageError
from compressor.degradation.jpeg import BLOCK, LUMINANCE, luminance_steps, waves_of
from compressor.degradation.names import NONE
from compressor.images.files import read_rgb_u8
from compressor.images.metrics import PEAK, Y_OFFSET, luma
from compressor.images.resize import centre_crop, downscale_u8, mod_crop
from compressor.images.sets import embedded_photos, evenly_spaced_photos

MOST_PICTURES = 24
"""Most pictures of a folder that are measured, evenly spaced."""
LARGEST_SIDE = 768
"""The middle of larger pictures is measured."""
SMALLEST_SIDE = 48

Y_PEAK = 219.0
"""The range of luma in studio range."""

NOISE_WINDOW = 16
CALM_SHARE = 0.05
MEAN_TO_SIGMA = 1.2533
SELECTION = 1.1
"""The calmest windows are so by chance, too: what was chosen as the least of many is a tenth too small."""
CLIPPED = (8.0, 247.0)
"""Means of windows beyond which their noise may have been cut off."""
LEAST_NOISE = 1.0
"""Standard deviation in grey levels below which a picture counts as free of noise."""

LEAST_BLUR = 0.25
MOST_BLUR = 3.0
MIDDLE, FINE = (0.25, 0.45), (0.6, 0.9)
"""Bands of frequencies, as shares of the Nyquist frequency."""
SPECTRUM_WINDOW = 64

QUALITIES = range(20, 96)
LEAST_STEP = 3.0
"""Coefficients with smaller steps tell nothing: rounding of the pixels hides them."""
SNAPPED = 0.55
"""Mean squared distance to multiples of the steps, over that of chance, below which a picture was a JPEG."""


@dataclass(frozen=True)
class PictureMeasured:
    """Noise in grey levels, blur in pixels, and the JPEG quality, if it was one."""

    noise: float
    blur: float
    quality: float | None


def measure_like(folder: Path, option: str, context: Context = QUIET) -> tuple[str, int]:
    """Return the degradation of a folder's pictures as steps in a line, and of how many pictures."""
    paths = evenly_spaced_photos(folder, MOST_PICTURES, option=option).values()
    pictures = map(measure_picture, context.each("measuring pictures", paths))
    measured = [picture for picture in pictures if picture is not None]
    if not measured:
        raise UsageError(f"{option} {folder}: none of its pictures has {SMALLEST_SIDE} pixels a side")
    return _as_line(measured), len(measured)


def measure_picture(path: Path) -> PictureMeasured | None:
    """Measure one picture; None for one that is too small."""
    image_u8 = read_rgb_u8(path)
    if min(image_u8.shape[-2:]) < SMALLEST_SIDE:
        return None
    quality = quality_of_file(path)
    if quality is None:
        # Blocks begin at the corner of the picture.
        y = luma(image_u8[:, :LARGEST_SIDE, :LARGEST_SIDE].float() / 255)[0].float() - Y_OFFSET
        quality = quality_of_blocks(y * (PEAK / Y_PEAK))
    green = centre_crop(image_u8[1], *(min(side, LARGEST_SIDE) for side in image_u8.shape[-2:])).float()
    noise = noise_of(green)
    return PictureMeasured(noise if noise >= LEAST_NOISE else 0.0, blur_of(green, noise), quality)


def quality_of_file(path: Path) -> float | None:
    """The quality that a JPEG file was written with, by the sum of its luminance steps; None for other files."""
    with Image.open(path) as image:
        tables = getattr(image, "quantization", None)
    if not tables:
        return None
    total = sum(tables[min(tables)])
    return float(min(range(1, 101), key=lambda quality: abs(float(luminance_steps(quality).sum()) - total)))


def quality_of_blocks(y: Tensor) -> float | None:
    """The quality of the JPEG that a picture (H,W) on 0..255 was, if its coefficients show one."""
    height, width = (side // BLOCK * BLOCK for side in y.shape)
    waves = waves_of(y[None, :height, :width] - 128, BLOCK).reshape(-1, BLOCK, BLOCK)
    # Flat blocks are at a multiple of any step.
    waves = waves[waves[:, 0, 1:].abs().amax(-1) + waves[:, 1:, 0].abs().amax(-1) > 2 * LUMINANCE[0][1]]
    if len(waves) < 16:
        return None
    distances = {}
    for quality in QUALITIES:
        steps = luminance_steps(quality)
        is_telling = steps >= LEAST_STEP
        is_telling[0, 0] = False
        # Only coefficients that are not zero: zeros fit any step.
        nearest = (waves / steps).round()
        counted = (nearest != 0) & is_telling
        if int(counted.sum()) < 64:
            continue
        error = ((waves - nearest * steps) / steps)[counted].square().mean()
        distances[quality] = float(error) * 12
    if not distances:
        return None
    best = min(distances, key=lambda quality: distances[quality])
    return float(best) if distances[best] < SNAPPED else None


def noise_of(channel: Tensor) -> float:
    """The standard deviation of the noise of a channel (H,W) on 0..255."""
    height, width = (side // 2 * 2 for side in channel.shape)
    y = channel[:height, :width]
    diagonal = (y[::2, ::2] - y[::2, 1::2] - y[1::2, ::2] + y[1::2, 1::2]) / 2
    windows = diagonal.unfold(0, NOISE_WINDOW, NOISE_WINDOW).unfold(1, NOISE_WINDOW, NOISE_WINDOW)
    spread = windows.reshape(-1, NOISE_WINDOW**2).abs().mean(-1) * MEAN_TO_SIGMA
    side = 2 * NOISE_WINDOW
    means = y.unfold(0, side, side).unfold(1, side, side).reshape(len(spread), -1).mean(-1)
    unclipped = spread[(means > CLIPPED[0]) & (means < CLIPPED[1])]
    spread = unclipped if len(unclipped) else spread
    calmest = spread.sort().values[: max(1, int(CALM_SHARE * len(spread)))]
    return SELECTION * float(calmest.mean())


def blur_of(channel: Tensor, noise: float) -> float:
    """The width in pixels of the Gaussian blur that takes from the spectrum what a channel (H,W) on 0..255 lacks."""
    lacking = math.log(_usual_ratio() / max(_band_ratio(channel, noise), 1e-6))
    fine, middle = (math.pi * sum(band) / 2 for band in (FINE, MIDDLE))
    sigma = math.sqrt(max(0.0, lacking) / (fine**2 - middle**2))
    return 0.0 if sigma < LEAST_BLUR else min(sigma, MOST_BLUR)


def _band_ratio(channel: Tensor, noise: float) -> float:
    """The power at high frequencies over that at middle ones, without the noise's, of all windows together."""
    side = min(SPECTRUM_WINDOW, *channel.shape)
    windows = channel.unfold(0, side, side).unfold(1, side, side).reshape(-1, side, side)
    fade = torch.hann_window(side, periodic=False)
    weights = fade[:, None] * fade
    power = torch.fft.fft2((windows - windows.mean((1, 2), keepdim=True)) * weights).abs().square()
    power = power.sum(0) / (weights.square().sum() * len(windows))
    frequency = torch.fft.fftfreq(side).abs() * 2
    radius = torch.maximum(frequency[:, None], frequency)
    fine, middle = (float(power[(radius >= low) & (radius < high)].mean()) for low, high in (FINE, MIDDLE))
    return max(fine - noise**2, 1e-3 * fine) / max(middle - noise**2, 1e-6)


@cache
def _usual_ratio() -> float:
    """The ratio of srkd's own photos, reduced as LR images are."""
    photos_u8 = (mod_crop(read_rgb_u8(path), 4) for path in embedded_photos("train").values())
    return statistics.median(_band_ratio(downscale_u8(photo_u8, 4)[1].float(), 0.0) for photo_u8 in photos_u8)


def _as_line(measured: Sequence[PictureMeasured]) -> str:
    """The steps in a line, from the least to the most that the middle four fifths of the pictures have."""
    parts = []
    for name, values in (
        ("blur", [picture.blur for picture in measured]),
        ("noise", [picture.noise for picture in measured]),
        ("jpeg", [picture.quality for picture in measured if picture.quality is not None]),
    ):
        if name == "jpeg" and len(values) < len(measured) / 2:
            continue
        # Two decimals at most, and never an exponent, which a line of steps does not have.
        ordered, cut = sorted(values), len(values) // 10
        low, high = (f"{round(value, 2):g}" for value in (ordered[cut], ordered[-1 - cut]))
        if high != "0":
            parts.append(f"{name}={low}" if low == high else f"{name}={low}..{high}")
    return ",".join(parts) or NONE
