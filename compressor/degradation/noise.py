"""Gaussian and Poisson noise, in colour or grey; the numbers come from a NumPy generator, the same on every device."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

GREY_WEIGHTS = (0.2989, 0.587, 0.114)
"""Those of BasicSR's grey Poisson noise (ITU-R BT.601, to four digits)."""
FEWEST_LEVELS = 32
"""Fewest grey levels that Poisson noise counts in an image: a flat one, with a single level, would drown in it."""


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
