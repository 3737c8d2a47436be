"""Two frames of each image, for flicker: a film's own, or a photo's LR image with two draws of noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from compressor.degradation.noise import add_gaussian
from compressor.degradation.steps import Draws
from compressor.images.flicker import still_pixels
from compressor.images.metrics import to_u8

PHOTO_NOISE = 2.0
"""Standard deviation in grey levels of the two draws of noise that make two frames of a photo."""


@dataclass(frozen=True)
class Frames:
    """Two LR images (1,3,h,w) of the same content, and where they stand still (h,w)."""

    first: Tensor | None
    """None: the image that is scored itself."""
    second: Tensor
    still: Tensor
    noise: float | None

    def enlarged(self, enlarge: Callable[[Tensor], Tensor], sr_u8: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return both frames enlarged, (3,H,W) in uint8, and where their input stands still."""
        first = sr_u8 if self.first is None else to_u8(enlarge(self.first)[0])
        scale = sr_u8.shape[-1] // self.still.shape[-1]
        still = self.still.repeat_interleave(scale, 0).repeat_interleave(scale, 1)
        return first, to_u8(enlarge(self.second)[0]), still


@dataclass(frozen=True)
class Stillness:
    """What of a set stood still, so that flicker could be measured."""

    pairs: int
    """Pairs of frames, or photos that were made two frames."""
    still_pairs: int
    """Those in which something stands still."""
    share: float
    """The part of all their pixels that stands still."""
    noise: float | None
    """Standard deviation in grey levels of the noise that made two frames of a photo; None: frames of a film."""

    @classmethod
    def of(cls, shares: Sequence[float], noise: float | None) -> Stillness:
        return cls(len(shares), sum(share > 0 for share in shares), math.fsum(shares) / len(shares), noise)

    def line(self) -> str:
        """Return what was compared, for a person."""
        if self.noise is not None:
            return f"each LR image twice, with noise of {self.noise:g} grey levels, as two frames that stand still"
        if not self.still_pairs:
            return f"nothing stands still in {self.pairs} pairs of frames, so it is not measured"
        return f"{self.still_pairs} of {self.pairs} pairs of frames, where {self.share:.0%} of the picture stands still"


def film_frames(lr_u8: Tensor, after_u8: Tensor) -> Frames:
    """Return an LR image and the frame after it."""
    return Frames(None, after_u8[None] / 255, still_pixels(lr_u8, after_u8), None)


def photo_frames(lr_u8: Tensor, name: str) -> Frames:
    """Return an LR image with two draws of noise, which depend on its name alone."""
    draws, lr = Draws.of_name(name), lr_u8 / 255
    first, second = (
        to_u8(add_gaussian(lr, PHOTO_NOISE, grey=False, generator=draws.stage(f"frame {number}")))[None] / 255
        for number in range(2)
    )
    return Frames(first, second, torch.ones(lr.shape[-2:], dtype=torch.bool), PHOTO_NOISE)
