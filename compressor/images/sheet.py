"""Comparison sheets: the same region by bicubic, student, teacher and in the original, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps

from compressor.base.files import atomic_path

SIDE_PIXELS = 320
ZOOM = 2
"""Number of pixels of the sheet, along each side, for one pixel of an image."""
CAPTION_PIXELS = 28
GAP_PIXELS = 6


def write_sheet(panels: Mapping[str, torch.Tensor], path: Path) -> None:
    """Write images (1,3,H,W) in uint8 in a row, by their captions: the square in which the last one has most detail.

    It is enlarged without smoothing.
    """
    side, crop = SIDE_PIXELS, SIDE_PIXELS // ZOOM
    *_, last = panels.values()
    top, left = _most_detailed_square(last[0].float() / 255, crop)
    width = len(panels) * (side + GAP_PIXELS) - GAP_PIXELS
    sheet = Image.new("RGB", (width, side + CAPTION_PIXELS), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    for index, (caption, image_u8) in enumerate(panels.items()):
        region = image_u8[0, :, top : top + crop, left : left + crop]
        picture = Image.fromarray(region.permute(1, 2, 0).contiguous().numpy())
        x = index * (side + GAP_PIXELS)
        sheet.paste(ImageOps.scale(picture, ZOOM, Image.Resampling.NEAREST), (x, 0))
        draw.text((x + 4, side + 5), caption, fill="black", font=font)
    with atomic_path(path) as temporary:
        sheet.save(temporary)


def _most_detailed_square(image_01: torch.Tensor, side: int) -> tuple[int, int]:
    """Top and left of the square with the largest differences of neighbours, where networks differ."""
    luma = image_01.mean(0)
    detail = (luma[1:, 1:] - luma[:-1, 1:]).abs() + (luma[1:, 1:] - luma[1:, :-1]).abs()
    height, width = detail.shape
    if min(height, width) <= side:
        return 0, 0
    stride = max(1, side // 8)
    means = torch.nn.functional.avg_pool2d(detail[None, None], side, stride)[0, 0]
    best = int(means.argmax())
    return best // means.shape[1] * stride, best % means.shape[1] * stride
