"""How much texture an image has beside another, as losses: by frequency, by place, and in flat areas ([choice]).

    spectrum    Σ_b v_b·mean_k γ_k²·|log10((P_S,bk + ε_b)/(P_T,bk + ε_b))| / Σ_b v_b
    contrast    mean over blocks of 8×8 pixels of ρ²·|dev(S) - dev(T)|
    flat        mean over the calmest quarter of T_b's blocks of max(0, dev(S) - dev(T))
    lattice     mean of max(0, l(S) - l(T) - 1/2)
    γ_k = Σ_b Re mean(F_S·conj F_T) / √(Σ_b P_S,bk · Σ_b P_T,bk),   ρ = cov(S, T)/(dev(S)·dev(T))

l is the deviation over the s² places within an LR pixel of a channel's fine detail, averaged over 3×3 LR pixels, in
grey levels: what repeats from one LR pixel to the next, as dots do; rounding hides half a level. P_bk is the power of
patch b's luminance in ring k (compressor/images/looks.py), ε_b a thousandth of P_T,b's mean, v_b² its mean in the rings
finer than 8 pixels. The coherence γ and the correlation ρ, without gradient and at least 0, ask for texture only where
the student knows where it lies (docs/methods/perceptual.md).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional as F

from compressor.images.looks import power_ratios, ring_means, windowed_spectrum
from compressor.images.metrics import PEAK, Y_WEIGHTS
from recipes.terms.distances import widen

FINE_RINGS = 4
"""Rings from a quarter of Nyquist on are finer than 8 pixels."""
SMALLEST_SQUARE = 1e-6
"""Of a square whose root or logarithm is taken, as that has no gradient at zero."""
BLOCK_SIDE, CALMEST = 8, 0.25
FINE_SIDE, REPEATS, SMALLEST_DOT, HIDDEN = 5, 3, 1e-8, 0.5


def spectrum_distance(
    images: torch.Tensor, target: torch.Tensor, gather: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """Return the spectrum's distance; `gather` gives values of the patches of all processes."""
    spectra = [windowed_spectrum(_luminance(widen(side))) for side in (images, target)]
    powers = (ring_means(spectrum.abs().square()) for spectrum in spectra)
    student, teacher = (power.clamp_min(SMALLEST_SQUARE) for power in powers)
    shared = ring_means((spectra[0].detach() * spectra[1].conj()).real)
    agreement = _squared_ratio(*gather(torch.stack([shared, student.detach(), teacher], 1)).sum(0))
    weights = teacher[:, teacher.shape[1] // FINE_RINGS :].mean(1).sqrt()
    distances = (agreement * power_ratios(student, teacher).abs()).mean(1) / 10
    return (distances * weights).mean() / gather(weights).mean().clamp_min(SMALLEST_SQUARE)


def _squared_ratio(shared: torch.Tensor, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Return max(0, shared)²/(student·teacher), at most 1, and 0 where nothing is there."""
    tiny = torch.finfo(shared.dtype).tiny
    # Two divisions, as the product of two small powers is 0.
    return (shared.clamp_min(0) / student.clamp_min(tiny) * (shared / teacher.clamp_min(tiny))).clamp_max(1)


def contrast_distance(student: torch.Tensor, teacher: torch.Tensor, agreement: torch.Tensor) -> torch.Tensor:
    """Return by how much the deviations of the blocks differ, where both agree (`block_agreement`)."""
    return (agreement * (student - teacher).abs()).mean()


@torch.no_grad()
def block_agreement(images: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return ρ² of the blocks of 8×8 pixels, (N, blocks)."""
    student, teacher = widen(images), widen(target)
    side = min(BLOCK_SIDE, *student.shape[-2:])

    student_mean, teacher_mean = F.avg_pool2d(student, side), F.avg_pool2d(teacher, side)

    def covariance(products: torch.Tensor, of_means: torch.Tensor) -> torch.Tensor:
        return (F.avg_pool2d(products, side) - of_means).mean(1).flatten(1)

    student_variance, teacher_variance = (
        covariance(each.square(), mean.square()).clamp_min(0) + SMALLEST_SQUARE
        for each, mean in ((student, student_mean), (teacher, teacher_mean))
    )
    return _squared_ratio(
        covariance(student * teacher, student_mean * teacher_mean), student_variance, teacher_variance
    )


def restlessness(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Return by how much more the student's blocks vary where the teacher's vary least."""
    calm = teacher <= teacher.quantile(CALMEST, dim=1, keepdim=True)
    # Patch by patch: equal blocks make the calmest quarter larger, and two processes must have the mean of one.
    return (F.relu(student - teacher).mul(calm).sum(1) / calm.sum(1)).mean()


def lattice_excess(images: torch.Tensor, target: torch.Tensor, scale: int) -> torch.Tensor:
    """Return by how much more the images' detail repeats from LR pixel to LR pixel than the target's."""
    student, teacher = (lattice(widen(side), scale) for side in (images, target))
    return F.relu(student - teacher - HIDDEN).mean()


def lattice(images: torch.Tensor, scale: int) -> torch.Tensor:
    """Return l of each channel and place of images in [0,1]."""
    fine = images - F.avg_pool2d(images, FINE_SIDE, stride=1, padding=FINE_SIDE // 2, count_include_pad=False)
    batch, channels = images.shape[:2]
    places = F.avg_pool2d(F.pixel_unshuffle(PEAK * fine, scale), REPEATS, stride=1)
    return (places.view(batch, channels, -1, *places.shape[-2:]).var(2, correction=0) + SMALLEST_DOT).sqrt()


def block_deviations(images: torch.Tensor) -> torch.Tensor:
    """Return the deviation within each block of 8×8 pixels of each image, of all channels together: (N, blocks)."""
    images = widen(images)
    side = min(BLOCK_SIDE, *images.shape[-2:])
    mean, square = F.avg_pool2d(images, side), F.avg_pool2d(images.square(), side)
    return ((square - mean.square()).clamp_min(0).mean(1) + SMALLEST_SQUARE).sqrt().flatten(1)


def _luminance(images: torch.Tensor) -> torch.Tensor:
    """Return Y of RGB images without its offset, (N,1,H,W); others as they are."""
    if images.shape[1] != len(Y_WEIGHTS):
        return images
    weighted = [weight * plane for weight, plane in zip(Y_WEIGHTS, images.unbind(1), strict=True)]
    return torch.stack(weighted, 1).sum(1, keepdim=True)
