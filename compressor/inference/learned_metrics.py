"""LPIPS and DISTS, by pyiqa: distances of the features that an ImageNet network has of two images.

    LPIPS   Zhang et al., 'The unreasonable effectiveness of deep features as a perceptual metric', 2018: AlexNet, v0.1
    DISTS   Ding et al., 'Image quality assessment: unifying structure and texture similarity', 2020: VGG-16

pyiqa downloads their weights. Neither has run in srkd's tests, which have no such network.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import lru_cache, partial

import torch
from torch import Tensor

from compressor.images.metrics import PEAK, crop_both, require_side

SMALLEST_SIDE = 32
"""AlexNet's last features need 31 pixels."""


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
