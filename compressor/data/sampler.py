"""Which patch each sample of each step sees: a pure function of (seed, step, global sample index)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from compressor.data.randomness import uniforms
from compressor.data.store import ImageStore


@dataclass(frozen=True)
class Draw:
    """One step's patches: image, top-left corner in LR pixels, and three symmetry switches for each sample."""

    images: torch.Tensor
    tops: torch.Tensor
    lefts: torch.Tensor
    hflip: torch.Tensor
    vflip: torch.Tensor
    transpose: torch.Tensor


@dataclass(frozen=True)
class Sampler:
    """Images uniform, positions uniform over the valid ones, hflip, vflip, transpose each with probability 1/2
    (EDSR lineage; BasicSR)."""

    heights: torch.Tensor
    widths: torch.Tensor
    lr_patch: int
    seed: int

    @classmethod
    def over(cls, store: ImageStore, *, lr_patch: int, seed: int) -> Sampler:
        return cls(store.lr.heights.cpu(), store.lr.widths.cpu(), lr_patch, seed)

    def draw(self, step: int, samples: Sequence[int]) -> Draw:
        u = torch.from_numpy(uniforms("patches", self.seed, step, samples, 6))
        images = (u[:, 0] * len(self.heights)).long()
        tops = (u[:, 1] * (self.heights[images] - self.lr_patch + 1)).long()
        lefts = (u[:, 2] * (self.widths[images] - self.lr_patch + 1)).long()
        return Draw(images, tops, lefts, *(u[:, k] < 0.5 for k in (3, 4, 5)))
