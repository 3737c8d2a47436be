"""How much an image looks like a reference, for networks trained for looks: sharpness, overshoot, spectrum, gradients.

PSNR prefers the blurred of two images. These measures tell what it hides: an image that lacks texture (sharpness below
1, negative high frequencies) and one with invented texture (above 1, positive). Halos, dots and specks raise the
sharpness as texture does, and the overshoot alone tells them from it. All take (N,C,H,W) on 0..255.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from compressor.images.metrics import PEAK, crop_both, require_side
from compressor.images.resize import centre_crop

NEIGHBOURS = 5
"""Side of the neighbourhood that an image may not leave without an overshoot."""
RINGS = 32
"""Rings of equal width into which the frequencies from 0 to Nyquist are divided."""
SPECTRUM_FLOOR = 1e-3
"""Part of the reference's mean power that is added to each ring, so that empty rings do not decide."""
MIN_SPECTRUM_SIDE = 2 * RINGS
"""Smallest square whose spectrum is measured: each ring then holds a frequency."""


def sharpness(images_255: Tensor, reference_255: Tensor, *, border: int = 0) -> Tensor:
    """Mean gradient magnitude over the reference's, for each image: (N,) float64; 1 if equal, NaN beside a flat one.

    The gradient has forward differences in x and y. Below 1 the image is blurred, above 1 noisier or sharper.
    """
    own, reference = (_gradient_magnitude(image) for image in crop_both(images_255, reference_255, border))
    return torch.where(own == reference, 1.0, own / torch.where(reference > 0, reference, torch.nan))


def overshoot(images_255: Tensor, reference_255: Tensor, *, border: int = 0) -> Tensor:
    """Mean distance, in grey levels, by which pixels lie outside the range of the reference's 5×5 neighbourhood: (N,).

    0 for an image that goes nowhere beyond what the reference has around, such as a slightly blurred one.
    """
    images, reference = crop_both(images_255, reference_255, border)
    highest, lowest = (sign * F.max_pool2d(sign * reference, NEIGHBOURS, 1, NEIGHBOURS // 2) for sign in (1, -1))
    return (F.relu(images - highest) + F.relu(lowest - images)).mean(dim=(-3, -2, -1))


def gradient_psnr(images_255: Tensor, reference_255: Tensor, *, border: int = 0) -> Tensor:
    """10 log10(255^2 / MSE) of the forward differences in x and y, in dB: (N,) float64; infinite for equal images."""
    images, reference = crop_both(images_255, reference_255, border)
    error = images - reference
    squares = [error.diff(dim=axis).square().mean(dim=(-3, -2, -1)) for axis in (-2, -1)]
    return 10 * torch.log10(PEAK**2 / (sum(squares[1:], squares[0]) / len(squares)))


def spectrum(images_255: Tensor, reference_255: Tensor, *, border: int = 0) -> Tensor:
    """Mean over the rings of |R|, in dB, for each image: (N,) float64; 0 for equal images. See `ring_ratios`."""
    return ring_ratios(images_255, reference_255, border=border).abs().mean(dim=-1)


def high_frequencies(images_255: Tensor, reference_255: Tensor, *, border: int = 0) -> Tensor:
    """Mean of R over the rings above half Nyquist, with its sign, in dB: (N,) float64. Negative: texture is missing."""
    return ring_ratios(images_255, reference_255, border=border)[:, RINGS // 2 :].mean(dim=-1)


def ring_ratios(images_255: Tensor, reference_255: Tensor, *, border: int = 0) -> Tensor:
    """R = 10 log10((P + e) / (P_reference + e)) in dB for each ring of frequencies: (N, RINGS) float64.

    P is the power of the Hann-windowed two-dimensional DFT of the central even square, its mean removed, averaged over
    channels and over the ring; e is 0.001 times the reference's mean power. NaN beside a flat reference.
    """
    cropped = crop_both(images_255, reference_255, border)
    require_side(cropped[0], MIN_SPECTRUM_SIDE, "the spectrum")
    own, reference = (ring_means(windowed_spectrum(image).abs().square()) for image in cropped)
    return power_ratios(own, reference).nan_to_num(nan=torch.nan, posinf=torch.nan, neginf=torch.nan)


def power_ratios(own: Tensor, reference: Tensor) -> Tensor:
    """Return R in dB of the powers in each ring, along the last axis."""
    floor = SPECTRUM_FLOOR * reference.mean(dim=-1, keepdim=True)
    return torch.where(own == reference, 0.0, 10 * torch.log10((own + floor) / (reference + floor)))


def _gradient_magnitude(images: Tensor) -> Tensor:
    down = images[..., 1:, :-1] - images[..., :-1, :-1]
    right = images[..., :-1, 1:] - images[..., :-1, :-1]
    return torch.hypot(down, right).mean(dim=(-3, -2, -1))


def windowed_spectrum(images: Tensor) -> Tensor:
    """Return the DFT of the central even square, its mean removed, under a Hann window: (N,C,side,side), complex."""
    side = min(images.shape[-2:]) // 2 * 2
    square = centre_crop(images, side, side)
    hann = torch.hann_window(side, dtype=square.dtype, device=square.device)
    spectrum: Tensor = torch.fft.fft2((square - square.mean(dim=(-2, -1), keepdim=True)) * hann[:, None] * hann)
    return spectrum


def ring_means(values: Tensor) -> Tensor:
    """Return the means of what a spectrum of (N,C,side,side) holds over its channels and each ring: (N, rings).

    Of images under 64 pixels there are as many rings as half their side.
    """
    side = values.shape[-1]
    rings, flat = min(RINGS, side // 2), values.mean(dim=-3).flatten(-2)
    cycles = torch.fft.fftfreq(side, dtype=flat.dtype, device=flat.device)  # in cycles a pixel; Nyquist is 0.5
    ring = (torch.hypot(cycles[:, None], cycles).flatten() / 0.5 * rings).long()
    # The last bin is for the corners beyond Nyquist.
    bins, ones = ring.clamp_max(rings), torch.ones_like(flat[0])
    sums = torch.zeros(len(flat), rings + 1, dtype=flat.dtype, device=flat.device).index_add(1, bins, flat)
    counts = torch.zeros(rings + 1, dtype=flat.dtype, device=flat.device).index_add(0, bins, ones)
    return (sums / counts.clamp_min(1))[:, :rings]
