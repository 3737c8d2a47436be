"""Which patch each sample of each step sees: a pure function of (seed, step, global sample index).

What a run has drawn, as hashes: two runs that print the same ones saw the same batches.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from compressor.base.randomness import uniforms
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


DIGEST_BYTES = 8
"""Of each step; steps are folded into 16 bytes a row of metrics."""


class BatchHashes:
    """Keeps a hash of each step's draw until a row of metrics tells it.

    The draw is hashed where the batch is made, a few hundred bytes a step; `again` draws a step anew, for the steps
    that a resumed run has not seen itself because they were trained before it died.
    """

    def __init__(self, again: Callable[[int], Draw]) -> None:
        self._again = again
        self._seen: dict[int, bytes] = {}
        self._pixels: str | None = None

    def saw(self, step: int, draw: Draw) -> None:
        self._seen[step] = fingerprint(step, draw)

    def saw_pixels(self, digest: str) -> None:
        """The first batch, pixel by pixel: the same draw from other images is another batch."""
        self._pixels = digest

    def tell(self, since: int, until: int) -> dict[str, str]:
        """The hash of the batches of the steps from `since` to before `until`, and once that of the first pixels."""
        folded = hashlib.blake2b(digest_size=16)
        for step in range(since, until):
            folded.update(self._seen.pop(step) if step in self._seen else fingerprint(step, self._again(step)))
        told = {"batches": folded.hexdigest()}
        if self._pixels is not None:
            told["first_pixels"], self._pixels = self._pixels, None
        return told


def fingerprint(step: int, draw: Draw) -> bytes:
    """A hash of one step's images, positions and symmetries."""
    hashed = hashlib.blake2b(step.to_bytes(8, "little"), digest_size=DIGEST_BYTES)
    for column in (draw.images, draw.tops, draw.lefts, draw.hflip, draw.vflip, draw.transpose):
        hashed.update(column.numpy().tobytes())
    return hashed.digest()
