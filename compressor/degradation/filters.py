"""Blur kernels, filtering, unsharp masking, and noise, whose numbers come from NumPy: the same on every device.

Formulas and numbers of the kernels: Wang et al., 'Real-ESRGAN', 2021, and its code (BasicSR, data/degradations.py).
"""

from __future__ import annotations

import math
from functools import cache, partial
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from compressor.images.resize import reflected_indices

KernelShape: TypeAlias = Literal["gaussian", "generalized", "plateau"]

SHARPENING_TAPS = 51
SHARPENING_SIGMA = 8.0
"""0.3·((51 - 1)/2 - 1) + 0.8, OpenCV's width of a Gaussian of 51 taps."""
SHARPENING_WEIGHT = 0.5
SHARPENING_THRESHOLD = 10.0
"""Difference in grey levels from the blurred image from which a pixel is sharpened."""
GREY_WEIGHTS = (0.2989, 0.587, 0.114)
"""Those of BasicSR's grey Poisson noise (ITU-R BT.601, to four digits)."""
FEWEST_LEVELS = 32
"""Fewest grey levels that Poisson noise counts in an image: a flat one, with a single level, would drown in it."""


def bell_kernel(
    size: int, sigma_x: float, sigma_y: float, angle: float = 0.0, shape: KernelShape = "gaussian", beta: float = 1.0
) -> Tensor:
    """Return a kernel (size, size) in float64 with sum 1; `size` is odd, widths are in pixels, the angle in radians.

    With q = (x,y)·Σ⁻¹·(x,y)ᵀ and Σ = R·diag(σx², σy²)·Rᵀ: e^(-q/2), generalized e^(-q^β/2), plateau 1/(1 + q^β).
    """
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]], dtype=torch.float64)
    inverse = torch.linalg.inv(turn @ torch.diag(torch.tensor([sigma_x**2, sigma_y**2], dtype=torch.float64)) @ turn.T)
    x, y = _grid(size)
    points = torch.stack([x, y], dim=-1)
    q = (points @ inverse * points).sum(-1)
    q = q if shape == "gaussian" else q**beta
    kernel = 1 / (1 + q) if shape == "plateau" else torch.exp(-0.5 * q)
    return kernel / kernel.sum()


def sinc_kernel(size: int, cutoff: float) -> Tensor:
    """Return a circular low-pass (size, size) in float64 with sum 1; the cutoff is in radians a pixel, π for none.

    ω·J₁(ω·r)/(2π·r), ω²/(4π) in the middle. It has negative values and so gives ringing.
    """
    x, y = _grid(size)
    radius = (x**2 + y**2).sqrt()
    kernel: Tensor = cutoff * torch.special.bessel_j1(cutoff * radius) / (2 * math.pi * radius)
    kernel[size // 2, size // 2] = cutoff**2 / (4 * math.pi)
    return kernel / kernel.sum()


def correlate(image: Tensor, kernel: Tensor) -> Tensor:
    """Return (C,H,W) correlated with a kernel (k,k), mirrored beyond the border without repeating the edge pixel.

    It is computed by Fourier transforms: five times as fast as a convolution with 21×21 weights on a CPU.
    """
    reach = kernel.shape[-1] // 2
    for axis in (-2, -1):
        size = image.shape[axis]
        positions = torch.arange(-reach, size + reach, device=image.device)
        image = image.index_select(axis, reflected_indices(positions, size, repeat_edge=False))
    height, width = image.shape[-2:]
    weights = torch.fft.rfft2(kernel.to(image).flip(-1, -2), s=(height, width))
    whole: Tensor = torch.fft.irfft2(torch.fft.rfft2(image) * weights, s=(height, width))
    return whole[..., 2 * reach :, 2 * reach :].contiguous()


sharpening_kernel = cache(partial(bell_kernel, SHARPENING_TAPS, SHARPENING_SIGMA, SHARPENING_SIGMA))


def sharpen(image_01: Tensor) -> Tensor:
    """Return an image in [0,1] sharpened by unsharp masking where it differs from its blurred copy.

    I + m·(clip(I + 0.5·(I - B)) - I), B the image blurred by 51 taps and m the blurred mask of |I - B| > 10/255
    (BasicSR, utils/img_process_util.py: USMSharp).
    """
    kernel = sharpening_kernel()
    residual = image_01 - correlate(image_01, kernel)
    soft = correlate((residual.abs() * 255 > SHARPENING_THRESHOLD).to(image_01), kernel)
    sharp = (image_01 + SHARPENING_WEIGHT * residual).clamp(0, 1)
    return soft * sharp + (1 - soft) * image_01


def _grid(size: int) -> tuple[Tensor, Tensor]:
    """Return x and y of the taps of an odd kernel, from its middle."""
    axis = torch.arange(size, dtype=torch.float64) - size // 2
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return x, y


def add_gaussian(image_01: Tensor, sigma_255: float, *, grey: bool, generator: np.random.Generator) -> Tensor:
    """Return an image (3,H,W) with noise of this deviation in grey levels; grey: one field for all channels."""
    shape = (1 if grey else 3, *image_01.shape[-2:])
    field = torch.from_numpy(generator.standard_normal(shape, dtype=np.float32))
    return image_01 + field.to(image_01.device) * (sigma_255 / 255)


def add_poisson(image_01: Tensor, strength: float, *, grey: bool, generator: np.random.Generator) -> Tensor:
    """Return an image (3,H,W) with shot noise of variance strength²·x/n, n a power of two not below its grey levels.

    strength·(Poisson(x·n)/n - x) is added, x the image rounded to 8 bit (BasicSR: generate_poisson_noise_pt).
    """
    source = image_01
    if grey:
        weights = torch.tensor(GREY_WEIGHTS, device=image_01.device)[:, None, None]
        source = (image_01 * weights).sum(0, keepdim=True)
    levels = (source * 255).round().clamp(0, 255).cpu()
    count = poisson_levels(levels)
    x = levels.double().numpy() / 255
    noise = strength * (generator.poisson(x * count) / count - x)
    return image_01 + torch.from_numpy(noise.astype(np.float32)).to(image_01.device)


def poisson_levels(levels: Tensor) -> int:
    """Return n for grey levels 0 … 255: the next power of two of how many different ones there are, 32 at least."""
    different = int((torch.bincount(levels.flatten().long(), minlength=256) > 0).sum())
    return max(FEWEST_LEVELS, 1 << (different - 1).bit_length())
