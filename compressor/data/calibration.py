"""Calibration patches for fitting a student's weights, drawn from its training images."""

from __future__ import annotations

import torch

from compressor.data.batches import Batches
from compressor.data.store import ImageStore
from compressor.models.fitting.patches import CANDIDATES, COUNT, PATCH, most_textured


def draw_calibration_patches(store: ImageStore, *, seed: int, count: int = COUNT, side: int = PATCH) -> torch.Tensor:
    """Return low-resolution patches (count, 3, side, side) in [0,1]: the most textured of every CANDIDATES drawn.

    If an image is smaller, all patches are reduced to its size.
    """
    side = min(side, int(store.lr.heights.min()), int(store.lr.widths.min()))
    batches = Batches.for_store(store, batch=CANDIDATES, lr_patch=side, seed=seed, device=torch.device("cpu"))
    return torch.cat([most_textured(batches.at(step).lr) for step in range(count)])
