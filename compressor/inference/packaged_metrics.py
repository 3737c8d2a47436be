"""Metrics that packages made for them compute, all of RGB images.

    LPIPS        Zhang et al., 'The unreasonable effectiveness of deep features as a perceptual metric', 2018; AlexNet
    DISTS        Ding et al., 'Image quality assessment: unifying structure and texture similarity', 2020; VGG-16
    SSIMULACRA2  Sneyers, tools/ssimulacra2.cc of libjxl, version 2.1
    FLIP         Andersson et al., 'FLIP: a difference evaluator for alternating images', 2020

pyiqa downloads the weights of the first two, which have not run in srkd's tests: there is no such network.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from compressor.images.metrics import PEAK, crop_both, require_side

SMALLEST_SIDE = 32
"""AlexNet's last features need 31 pixels."""
SMALLEST_SSIMULACRA2_SIDE = 113
"""Of smaller images libjxl leaves out the coarsest of six scales, and gives their weights to other figures."""
LIBJXL_BLUR = (0.00941436781, 0.0360111147, 0.109335373, 0.212928592, 0.264621105)
"""Weights of libjxl's Gaussian blur up to the centre: sigma 1.5, as a sum of three cosines."""


def _distance(name: str, images_255: Tensor, reference_255: Tensor, *, border: int = 0) -> Tensor:
    """The distance for each image of (N,3,H,W) on 0..255: (N,) float64; 0 for equal images."""
    images, reference = ((image / PEAK).float() for image in crop_both(images_255, reference_255, border))
    require_side(images, SMALLEST_SIDE, name.upper())
    with torch.inference_mode():
        return _metric(name)(images, reference).flatten().double()


lpips, dists = partial(_distance, "lpips"), partial(_distance, "dists")


@lru_cache
def _metric(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    measure: Callable[[Tensor, Tensor], Tensor] = importlib.import_module("pyiqa").create_metric(name, device="cpu")
    return measure


def flip(images_255: Tensor, reference_255: Tensor, *, border: int = 0) -> Tensor:
    """Mean LDR-FLIP at 67 pixels per degree for each image of (N,3,H,W) on 0..255: (N,) float64; 0 for equal ones."""
    evaluate = importlib.import_module("flip_evaluator").evaluate
    pairs = _pairs(images_255 / PEAK, reference_255 / PEAK, border)
    maps = [evaluate(theirs, ours, "LDR", applyMagma=False, computeMeanError=False)[0] for ours, theirs in pairs]
    return torch.tensor([errors.mean(dtype="float64") for errors in maps], dtype=torch.float64)


def ssimulacra2(images_255: Tensor, reference_255: Tensor, *, border: int = 0) -> Tensor:
    """SSIMULACRA2 for each image of (N,3,H,W) on 0..255: (N,) float64. 100 for equal images, below 0 for bad ones.

    The package's formulas with libjxl's blur, for which all beyond an image is zero. The package's own blur mirrors the
    image at two of its sides, by which images of a few hundred pixels lose up to 20.
    """
    formulas = importlib.import_module("ssimulacra2.ssimulacra2")
    figures = []
    for pair in _pairs(images_255, reference_255, border, SMALLEST_SSIMULACRA2_SIDE, "SSIMULACRA2"):
        linear, scales = [formulas.srgb_to_linear(each) for each in pair], formulas.Msssim()
        for number in range(formulas.kNumScales):
            if number > 0:
                linear = [formulas.downsample(each, 2, 2) for each in linear]
            ours, theirs = (formulas.make_positive_xyb(formulas.linear_rgb_to_xyb(each)) for each in linear)
            means = _blurred(theirs), _blurred(ours)
            squares = _blurred(theirs * theirs), _blurred(ours * ours), _blurred(theirs * ours)
            scale = formulas.MsssimScale()
            scale.avg_ssim = formulas.ssim_map(*means, *squares)
            scale.avg_edgediff = formulas.edge_diff_map(theirs, means[0], ours, means[1])
            scales.scales.append(scale)
        figures.append(scales.score())
    return torch.tensor(figures, dtype=torch.float64)


def _pairs(images: Tensor, reference: Tensor, border: int, side: int = 1, metric: str = "") -> list[tuple[Any, Any]]:
    """Each image and its reference without the border, as the packages take them, (H,W,3)."""
    both = crop_both(images, reference, border)
    require_side(both[0], side, metric)
    ours, theirs = (image.permute(0, 2, 3, 1).numpy() for image in both)
    return list(zip(ours, theirs, strict=True))


def _blurred(planes: Any) -> Any:
    convolve = importlib.import_module("scipy.ndimage").convolve1d
    for axis in (0, 1):
        planes = convolve(planes, (*LIBJXL_BLUR, *LIBJXL_BLUR[-2::-1]), axis=axis, mode="constant")
    return planes
