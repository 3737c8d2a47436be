"""Student, teacher and bicubic side by side on the same few images, by the protocol of every other number here."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from compressor.data.prepare import ValidationImage
from compressor.metrics import psnr_y, to_u8
from compressor.networks.base import Network
from compressor.resize import upscale_bicubic
from compressor.teacher import Teacher
from compressor.training.processes import Processes


@torch.no_grad()
def quantised_sr(network: Network | None, lr: torch.Tensor, scale: int) -> torch.Tensor:
    """The network's output in fp32, or the bicubic upscale where no network is given; rounded to 8 bit, on the CPU."""
    sr = upscale_bicubic(lr, scale) if network is None else network(lr.to(_device(network, lr)))
    return to_u8(sr.float()).cpu().float() / 255


def _device(network: Network, lr: torch.Tensor) -> torch.device:
    """A teacher moves images itself."""
    return lr.device if isinstance(network, Teacher) else next(network.parameters()).device


def mean_psnr_y(
    network: Network | None, images: Sequence[ValidationImage], scale: int, processes: Processes | None = None
) -> float:
    """Mean Y-PSNR in dB, border = scale; no network means bicubic. Processes share the images in turn."""
    processes = processes or Processes()
    figures = torch.zeros(len(images))
    for index in range(processes.place.rank, len(images), processes.place.world):
        image = images[index]
        figures[index] = psnr_y(quantised_sr(network, image.lr, scale), image.hr, border=scale)
    processes.total_(figures)
    return float(figures.mean())
