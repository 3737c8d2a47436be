"""Student, teacher and bicubic side by side on the same few images, by the protocol of every other number here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from compressor.data.store import ImageStore
from compressor.metrics import psnr_y, to_u8
from compressor.networks.base import Network
from compressor.resize import upscale_bicubic

MAX_HR_SIDE = 480
"""Validation looks at the centre of an image, at most this many HR pixels a side, to stay quick."""


@dataclass(frozen=True)
class ValidationImage:
    """Centre crops in [0,1], 1,3,H,W."""

    name: str
    lr: torch.Tensor
    hr: torch.Tensor


def validation_images(store: ImageStore) -> tuple[ValidationImage, ...]:
    """The centre of each image of the store; LR is the same region of the stored LR image."""
    lr_side = MAX_HR_SIDE // store.scale
    images = []
    for index, name in enumerate(store.names):
        lr, hr = store.lr.image(index), store.hr.image(index)
        h, w = (min(lr_side, n) for n in lr.shape[1:])
        top, left = (lr.shape[1] - h) // 2, (lr.shape[2] - w) // 2
        s = store.scale
        lr, hr = lr[:, top : top + h, left : left + w], hr[:, top * s : (top + h) * s, left * s : (left + w) * s]
        images.append(ValidationImage(name, lr.float().div(255)[None], hr.float().div(255)[None]))
    return tuple(images)


@torch.no_grad()
def mean_psnr_y(network: Network | None, images: Sequence[ValidationImage], scale: int) -> float:
    """Mean Y-PSNR in dB, border = scale, fp32; no network means bicubic."""
    figures = []
    for image in images:
        sr = upscale_bicubic(image.lr, scale) if network is None else network(image.lr)
        figures.append(psnr_y(to_u8(sr.float()).float() / 255, image.hr, border=scale).mean())
    return float(torch.stack(figures).mean())
