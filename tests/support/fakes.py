"""Models without files for the tests of tiling, evaluation and upscaling."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from compressor.models.networks.base import Descriptor
from compressor.runtimes.base import Runtime


class Fake(Runtime):
    """A runtime around any function, of whatever shape."""

    name = "torch"
    layout = "contiguous"

    def __init__(self, function: Callable[[Tensor], Tensor], descriptor: Descriptor, label: str = "fake") -> None:
        self.function, self.descriptor, self.label = function, descriptor, label
        self.inputs: list[tuple[int, ...]] = []

    def run(self, lr: Tensor) -> Tensor:
        self.inputs.append(tuple(lr.shape))
        return self._run(lr)

    def _run(self, lr: Tensor) -> Tensor:
        with torch.inference_mode():
            return self.function(lr)


def nearest(scale: int) -> Callable[[Tensor], Tensor]:
    """Return a function that repeats each pixel."""
    return lambda lr: lr.repeat_interleave(scale, -2).repeat_interleave(scale, -1)


def convolutions(scale: int, layers: int = 3, channels: int = 3) -> nn.Module:
    """Return a small network with zero padding, random weights and a receptive radius of `layers` pixels."""
    torch.manual_seed(layers)
    body: list[nn.Module] = [nn.Conv2d(channels, 8, 3, padding=1), nn.LeakyReLU(0.1)]
    for _ in range(layers - 2):
        body += [nn.Conv2d(8, 8, 3, padding=1), nn.LeakyReLU(0.1)]
    body += [nn.Conv2d(8, channels * scale**2, 3, padding=1), nn.PixelShuffle(scale)]
    return nn.Sequential(*body).eval().requires_grad_(False)


def nearest_model(scale: int, label: str = "nearest") -> Fake:
    return Fake(nearest(scale), Descriptor(scale=scale, receptive_radius=0), label)
