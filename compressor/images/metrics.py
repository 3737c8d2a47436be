"""PSNR and SSIM as in super-resolution papers, and the evaluation protocol as a value.

Y-PSNR as in RCAN's MATLAB evaluation and BasicSR: outputs rounded to 8 bit, Y of BT.601 in studio range and not
rounded, `border` pixels cropped on each side, peak 255, PSNR averaged over images (not taken of a mean squared error
over all). SSIM: Wang et al., 'Image quality assessment: from error visibility to structural similarity', 2004.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from compressor.base.errors import SrkdError

Y_WEIGHTS = (65.481, 128.553, 24.966)
Y_OFFSET = 16.0
PEAK = 255.0
SSIM_WINDOW = 11
SSIM_SIGMA = 1.5


class ImageTooSmall(SrkdError):
    """An image that is too small for a metric."""


def to_u8(images_01: Tensor) -> Tensor:
    """Return 8-bit values of [0,1] floats: times 255, half rounded up as in MATLAB, clipped."""
    return images_01.float().mul(255).add(0.5).floor().clamp(0, 255).to(torch.uint8)


def as_in_a_file(images_01: Tensor) -> Tensor:
    """Return [0,1] floats as a file of 8 bit holds them, still as floats."""
    return (255 * images_01.clamp(0, 1)).round() / 255


def luma(rgb_01: Tensor) -> Tensor:
    """Return Y = 65.481 R + 128.553 G + 24.966 B + 16 of (..., 3, H, W) in [0,1]: (..., 1, H, W), 16..235, float64."""
    if rgb_01.shape[-3] != 3:
        raise SrkdError(f"luma takes RGB images (..., 3, H, W), got {tuple(rgb_01.shape)}")
    red, green, blue = rgb_01.double().unbind(dim=-3)
    y = red * Y_WEIGHTS[0] + green * Y_WEIGHTS[1] + blue * Y_WEIGHTS[2] + Y_OFFSET
    return y.unsqueeze(-3)


def luma_of(image_u8: Tensor) -> Tensor:
    """Return the luminance Y of an image in bytes, on 0..255."""
    return luma(image_u8.double() / PEAK)


def psnr(images_255: Tensor, reference_255: Tensor, *, border: int = 0) -> Tensor:
    """Return 10 log10(255^2 / MSE) in dB for each image of (N, C, H, W) on 0..255: (N,) float64, infinite if equal."""
    images, reference = crop_both(images_255, reference_255, border)
    mse = (images - reference).square().mean(dim=(-3, -2, -1))
    return 10 * torch.log10(PEAK**2 / mse)


def ssim(images_255: Tensor, reference_255: Tensor, *, border: int = 0) -> Tensor:
    """Return the mean SSIM for each image of (N, C, H, W) on 0..255: (N,) float64.

    Gaussian window 11x11 with sigma 1.5 over the valid region, K1 = 0.01, K2 = 0.03, L = 255, population moments.
    """
    images, reference = crop_both(images_255, reference_255, border)
    require_side(images, SSIM_WINDOW, "SSIM")
    c1, c2 = (0.01 * PEAK) ** 2, (0.03 * PEAK) ** 2
    mean_a, mean_b = _window_mean(images), _window_mean(reference)
    variances = _window_mean(images.square()) - mean_a.square() + _window_mean(reference.square()) - mean_b.square()
    covariance = _window_mean(images * reference) - mean_a * mean_b
    product = mean_a * mean_b
    similarity = ((2 * product + c1) * (2 * covariance + c2)) / (
        (mean_a.square() + mean_b.square() + c1) * (variances + c2)
    )
    return similarity.mean(dim=(-3, -2, -1))


def finite_or_none(figure: float) -> float | None:
    """Return a figure for JSON, which has no infinity: None (null) for an infinite PSNR."""
    return figure if math.isfinite(figure) else None


def require_side(images: Tensor, side: int, metric: str) -> None:
    """Refuse images, without their border, that are too small for a metric."""
    height, width = images.shape[-2:]
    if min(height, width) < side:
        raise ImageTooSmall(
            f"{metric} needs {side}x{side} pixels, the image has {width}x{height} after cropping the border: leave "
            "such images out of the set"
        )


def crop_both(images: Tensor, reference: Tensor, border: int) -> tuple[Tensor, Tensor]:
    """Both without `border` pixels on each side, in float64; different sizes are refused."""
    if images.shape != reference.shape:
        raise SrkdError(f"cannot compare images of {_size(images)} with a reference of {_size(reference)}")
    height, width = images.shape[-2] - 2 * border, images.shape[-1] - 2 * border
    if border < 0 or height < 1 or width < 1:
        raise ImageTooSmall(f"nothing is left of {_size(images)} after cropping a border of {border} pixels")
    window = (..., slice(border, border + height), slice(border, border + width))
    return images[window].double(), reference[window].double()


def _size(images: Tensor) -> str:
    return "x".join(map(str, (*images.shape[:-2], images.shape[-1], images.shape[-2])))


@lru_cache(maxsize=1)
def _gaussian() -> tuple[float, ...]:
    half = SSIM_WINDOW // 2
    weights = [math.exp(-(offset**2) / (2 * SSIM_SIGMA**2)) for offset in range(-half, half + 1)]
    return tuple(weight / sum(weights) for weight in weights)


def _window_mean(planes: Tensor) -> Tensor:
    """Return the separable Gaussian mean over the valid region: shifted sums, faster than a float64 convolution."""
    for axis in (-2, -1):
        length = planes.shape[axis] - SSIM_WINDOW + 1
        total = torch.zeros_like(planes.narrow(axis, 0, length))
        for offset, weight in enumerate(_gaussian()):
            total.add_(planes.narrow(axis, offset, length), alpha=weight)
        planes = total
    return planes
