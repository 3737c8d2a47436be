"""Patches that a student's weights are solved for on, drawn from the images that it is trained on."""

from __future__ import annotations

import torch

from compressor.data.batches import Batches
from compressor.data.store import ImageStore
from compressor.models.fitting.patches import CANDIDATES, COUNT, PATCH, most_textured


def draw_calibration_patches(store: ImageStore, *, seed: int, count: int = COUNT, side: int = PATCH) -> torch.Tensor:
    """Return low-resolution patches (count, 3, side, side) in [0,1]: of each CANDIDATES drawn, the most textured one.

    Where an image is smaller, all patches are as small.
    """
    side = min(side, int(store.lr.heights.min()), int(store.lr.widths.min()))
    batches = Batches.for_store(store, batch=CANDIDATES, lr_patch=side, seed=seed, device=torch.device("cpu"))
    return torch.cat([most_textured(batches.at(step).lr) for step in range(count)])
