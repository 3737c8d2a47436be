"""JPEG: the real codec on the CPU, and one in torch for a device.

The real one is libjpeg by Pillow, with 4:2:0 chroma, as files of cameras and of the web have it. The one in torch has
the same tables, transforms and chroma, without the codec's integer arithmetic. Real-ESRGAN's training code has a third
one, with a transposed table, unrounded tables and zeros beyond the border; `like_realesrgan` repeats it for comparison.
"""

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
CHROMINANCE = (
    (17, 18, 24, 47),
    (18, 21, 26, 66),
    (24, 26, 56, 99),
    (47, 66, 99, 99),
)
"""The first ones of the chrominance, table K.2; all others are 99."""

TO_YCC = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
TO_RGB = ((1.0, 0.0, 1.402), (1.0, -0.344136, -0.714136), (1.0, 1.772, 0.0))
"""JFIF 1.02."""
BLOCK, MACROBLOCK = 8, 16

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


def jpeg_in_torch(image_01: Tensor, quality: float, *, like_realesrgan: bool = False) -> Tensor:
    """Return an image (3,H,W) in [0,1] as a JPEG in torch stores it, not rounded to 8 bit."""
    height, width = image_01.shape[-2:]
    down, right = -height % MACROBLOCK, -width % MACROBLOCK
    mode = "constant" if like_realesrgan else "replicate"
    padded = torch.nn.functional.pad(image_01[None], (0, right, 0, down), mode=mode)[0] * 255

    def whole(planes: Tensor) -> Tensor:
        """The planes as the codec stores them: in whole grey levels."""
        return planes if like_realesrgan else planes.round().clamp(0, 255)

    padded = whole(padded)
    offset = torch.tensor([0.0, 128.0, 128.0], device=padded.device)[:, None, None]
    ycc = whole(torch.einsum("oc,chw->ohw", _matrix(TO_YCC, padded), padded) + offset)
    tables = quantisation_tables(quality, like_realesrgan=like_realesrgan)
    luminance = whole(_coded(ycc[:1], tables[0].to(padded)))
    chroma = whole(_coded(whole(torch.nn.functional.avg_pool2d(ycc[1:], 2)), tables[1].to(padded)))
    if like_realesrgan:
        chroma = chroma.repeat_interleave(2, -1).repeat_interleave(2, -2)
    else:
        chroma = torch.nn.functional.interpolate(chroma[None], scale_factor=2, mode="bilinear")[0]
    rgb = torch.einsum("oc,chw->ohw", _matrix(TO_RGB, padded), torch.cat([luminance, chroma]) - offset)
    return (rgb.clamp(0, 255) / 255)[..., :height, :width]


def quantisation_tables(quality: float, *, like_realesrgan: bool = False) -> Tensor:
    """Return the steps (2, 8, 8) of luminance and chrominance at a quality: those of libjpeg, rounded and 1 … 255."""
    factor = (5000 / quality if quality < 50 else 200 - 2 * quality) / 100
    chrominance = torch.full((BLOCK, BLOCK), 99.0)
    chrominance[:4, :4] = torch.tensor(CHROMINANCE, dtype=torch.float32)
    luminance = torch.tensor(LUMINANCE, dtype=torch.float32)
    if like_realesrgan:
        return torch.stack([luminance.T, chrominance.T]) * factor
    tables = torch.stack([luminance, chrominance]).double()
    percent = 5000 // int(quality) if quality < 50 else 200 - 2 * int(quality)
    return ((tables * percent + 50) / 100).floor().clamp(1, 255).float()


def _coded(planes: Tensor, steps: Tensor) -> Tensor:
    """Return planes (C,H,W) on 0..255 after a cosine transform of 8×8 blocks, rounded to multiples of the steps."""
    return blockwise(planes - 128, BLOCK, lambda waves: (waves / steps).round() * steps) + 128


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


def _matrix(rows: tuple[tuple[float, ...], ...], like: Tensor) -> Tensor:
    return torch.tensor(rows, dtype=like.dtype, device=like.device)
