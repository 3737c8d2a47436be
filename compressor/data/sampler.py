"""Which patch each sample of each step sees: a pure function of (seed, step, global sample index)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

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

    def shrunk(self, by: int) -> Draw:
        """The same patches in images `by` times smaller, where positions are multiples of it."""
        return replace(self, tops=self.tops // by, lefts=self.lefts // by)


@dataclass(frozen=True)
class Sampler:
    """Images uniform, positions uniform over the valid ones, hflip, vflip, transpose each with probability 1/2
    (EDSR lineage; BasicSR).

    Positions are multiples of `align`, so that a patch also has a place in an image that many times smaller.
    """

    heights: torch.Tensor
    widths: torch.Tensor
    lr_patch: int
    seed: int
    align: int = 1

    @classmethod
    def over(cls, store: ImageStore, *, lr_patch: int, seed: int) -> Sampler:
        return cls(store.lr.heights.cpu(), store.lr.widths.cpu(), lr_patch, seed)

    def draw(self, step: int, samples: Sequence[int]) -> Draw:
        u = torch.from_numpy(uniforms("patches", self.seed, step, samples, 6))
        images = (u[:, 0] * len(self.heights)).long()
        tops = (u[:, 1] * self._places(self.heights[images])).long() * self.align
        lefts = (u[:, 2] * self._places(self.widths[images])).long() * self.align
        return Draw(images, tops, lefts, *(u[:, k] < 0.5 for k in (3, 4, 5)))

    def _places(self, sizes: torch.Tensor) -> torch.Tensor:
        """How many positions there are along an axis of that size."""
        return (sizes - self.lr_patch) // self.align + 1
