"""JPEG by libjpeg, with 4:2:0 chroma as files of cameras and of the web have it; its tables and cosine transform."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from io import BytesIO
from typing import TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
"""Steps of the luminance at quality 50: ITU-T T.81, table K.1; rows are vertical frequencies."""
BLOCK = 8

Change: TypeAlias = Callable[[Tensor], Tensor]
"""A change of the cosine coefficients of blocks (C, rows, columns, side, side)."""


def jpeg(image_01: Tensor, quality: int) -> Tensor:
    """Return an image (3,H,W) in [0,1] as libjpeg stores it at a quality of 1 … 100, on the image's device."""
    bytes_u8 = (image_01.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().contiguous().numpy()
    file = BytesIO()
    Image.fromarray(bytes_u8).save(file, format="JPEG", quality=quality, subsampling="4:2:0")
    with Image.open(file) as decoded:
        samples = np.asarray(decoded).transpose(2, 0, 1).astype(np.float32)
    return torch.from_numpy(samples).div_(255).to(image_01.device)


def luminance_steps(quality: int) -> Tensor:
    """Return the steps (8, 8) of the luminance at a quality, as libjpeg rounds them to 1 … 255."""
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    return ((torch.tensor(LUMINANCE, dtype=torch.float64) * percent + 50) / 100).floor().clamp(1, 255).float()


def blockwise(planes: Tensor, side: int, change: Change) -> Tensor:
    """Return planes (C,H,W) with the cosine coefficients of each block changed; H and W are multiples of the side."""
    basis, waves = cosine_basis(side).to(planes), change(waves_of(planes, side))
    return (basis.T @ waves @ basis).transpose(2, 3).reshape(planes.shape)


def waves_of(planes: Tensor, side: int) -> Tensor:
    """Return the cosine coefficients (C, rows, columns, side, side) of the blocks of planes (C,H,W)."""
    channels, height, width = planes.shape
    basis = cosine_basis(side).to(planes)
    blocks = planes.reshape(channels, height // side, side, width // side, side).transpose(2, 3)
    return basis @ blocks @ basis.T


@lru_cache(maxsize=4)
def cosine_basis(side: int) -> Tensor:
    """Return the orthonormal cosine transform (side, side), one wave a row."""
    position = torch.arange(side, dtype=torch.float64)
    angle = math.pi * position[:, None] * (2 * position + 1) / (2 * side)
    basis = torch.cos(angle) * math.sqrt(2 / side)
    basis[0] /= math.sqrt(2)
    return basis.float()
