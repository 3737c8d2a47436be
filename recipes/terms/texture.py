"""How much texture an image has beside another, wherever it lies, as losses: by frequency, by place, and in flat areas.

    spectrum    Σ_b v_b·mean_k |log10((P_S,bk + ε_b)/(P_T,bk + ε_b))| / Σ_b v_b
    contrast    mean over blocks of 8×8 pixels of |dev(S) - dev(T)|
    flat        mean over the calmest quarter of T_b's blocks of max(0, dev(S) - dev(T))

S_b and T_b are two patches, the first of them the student's; P_bk is the power of the luminance in ring k of the
frequencies (compressor/images/looks.py), ε_b a thousandth of the mean of P_T,b, and v_b² the mean of P_T,b in the rings
finer than 8 pixels: patches count by the texture that they should have. dev is a block's deviation, of all channels
together. The spectrum alone would be met by stronger edges and noise in flat areas: the contrast holds each to its
place, and says nothing of where in a block a line lies, of which a small student is not sure. It treats a block with
too much as one with too little; in flat areas too much is seen first, which is why they count once more.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional as F

from compressor.images.looks import power_ratios, ring_powers
from compressor.images.metrics import Y_WEIGHTS
from recipes.terms.distances import widen

FINE_RINGS = 4
"""Rings from a quarter of Nyquist on are finer than 8 pixels."""
SMALLEST_SQUARE = 1e-6
"""Added to a square, as a root has no gradient at zero."""
BLOCK_SIDE, CALMEST = 8, 0.25


def spectrum_distance(
    images: torch.Tensor, target: torch.Tensor, gather: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """Return the spectrum's distance; `gather` gives the weights of the patches of all processes."""
    ours, theirs = (ring_powers(_luminance(widen(side))) for side in (images, target))
    weights = theirs[:, theirs.shape[1] // FINE_RINGS :].mean(1).sqrt()
    distances = power_ratios(ours, theirs).abs().mean(1) / 10
    return (distances * weights).mean() / gather(weights).mean().clamp_min(SMALLEST_SQUARE)


def contrast_distance(ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    """Return by how much the deviations of the blocks differ."""
    return (ours - theirs).abs().mean()


def restlessness(ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    """Return by how much more our blocks vary where theirs vary least."""
    calm = theirs <= theirs.quantile(CALMEST, dim=1, keepdim=True)
    # Patch by patch: equal blocks make the calmest quarter larger, and two processes must have the mean of one.
    return (F.relu(ours - theirs).mul(calm).sum(1) / calm.sum(1)).mean()


def block_deviations(images: torch.Tensor) -> torch.Tensor:
    """Return what both distances compare: the deviations of the blocks of 8×8 pixels, (N, blocks)."""
    return deviations(widen(images), BLOCK_SIDE)


def deviations(images: torch.Tensor, side: int) -> torch.Tensor:
    """Return the deviation within each block of each image, of all channels together: (N, blocks)."""
    side = min(side, *images.shape[-2:])
    mean, square = F.avg_pool2d(images, side), F.avg_pool2d(images.square(), side)
    return ((square - mean.square()).clamp_min(0).mean(1) + SMALLEST_SQUARE).sqrt().flatten(1)


def _luminance(images: torch.Tensor) -> torch.Tensor:
    """Return Y of RGB images without its offset, (N,1,H,W); others as they are."""
    if images.shape[1] != len(Y_WEIGHTS):
        return images
    return (images * images.new_tensor(Y_WEIGHTS).view(-1, 1, 1)).sum(1, keepdim=True)
