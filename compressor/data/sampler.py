"""The patch that each sample of each step sees: a pure function of (seed, step, global sample index).

A run records hashes of its draws: two runs with the same hashes saw the same batches.
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
    """One step's patches: for each sample its image, top-left corner in LR pixels, and three symmetry switches."""

    images: torch.Tensor
    tops: torch.Tensor
    lefts: torch.Tensor
    hflip: torch.Tensor
    vflip: torch.Tensor
    transpose: torch.Tensor

    def downscaled(self, factor: int) -> Draw:
        """Return the same patches in images `factor` times smaller, where positions are multiples of it."""
        return replace(self, tops=self.tops // factor, lefts=self.lefts // factor)


@dataclass(frozen=True)
class Sampler:
    """Draws images uniformly, valid positions uniformly, hflip, vflip and transpose each with probability 1/2
    (EDSR's code and those that follow it; BasicSR).

    Positions are multiples of `align`, so that a patch also has a position in an image that many times smaller.
    """

    heights: torch.Tensor
    widths: torch.Tensor
    lr_patch: int
    seed: int
    align: int = 1

    @classmethod
    def for_store(cls, store: ImageStore, *, lr_patch: int, seed: int) -> Sampler:
        return cls(store.lr.heights.cpu(), store.lr.widths.cpu(), lr_patch, seed)

    def draw(self, step: int, samples: Sequence[int]) -> Draw:
        """Return the patches of some samples of a step."""
        u = torch.from_numpy(uniforms("patches", self.seed, step, samples, 6))
        images = (u[:, 0] * len(self.heights)).long()
        tops = (u[:, 1] * self._position_count(self.heights[images])).long() * self.align
        lefts = (u[:, 2] * self._position_count(self.widths[images])).long() * self.align
        return Draw(images, tops, lefts, *(u[:, k] < 0.5 for k in (3, 4, 5)))

    def _position_count(self, sizes: torch.Tensor) -> torch.Tensor:
        """Return the number of positions along an axis of that size."""
        return (sizes - self.lr_patch) // self.align + 1


DIGEST_BYTES = 8
"""The bytes of one step's hash; steps are hashed together into 16 bytes a row of metrics."""


class BatchHashes:
    """The hash of each step's draw, kept until it is written into a row of metrics.

    The draw is hashed where the batch is made, a few hundred bytes a step; `redraw` repeats the draw of a step that a
    resumed run has not made itself because it was trained before the run died.
    """

    def __init__(self, redraw: Callable[[int], Draw]) -> None:
        self._redraw = redraw
        self._hashes: dict[int, bytes] = {}
        self._pixels: str | None = None

    def record(self, step: int, draw: Draw) -> None:
        """Keep the hash of a step's draw."""
        self._hashes[step] = hash_draw(step, draw)

    def record_pixels(self, digest: str) -> None:
        """Keep the hash of the first batch's pixels: the same draw from other images is another batch."""
        self._pixels = digest

    def take(self, since: int, until: int) -> dict[str, str]:
        """Return one hash of the batches from step `since` to before `until`, and once that of the first pixels."""
        digest = hashlib.blake2b(digest_size=16)
        for step in range(since, until):
            digest.update(self._hashes.pop(step) if step in self._hashes else hash_draw(step, self._redraw(step)))
        hashes = {"batches": digest.hexdigest()}
        if self._pixels is not None:
            hashes["first_pixels"], self._pixels = self._pixels, None
        return hashes


def hash_draw(step: int, draw: Draw) -> bytes:
    """Return a hash of one step's images, positions and symmetries."""
    digest = hashlib.blake2b(step.to_bytes(8, "little"), digest_size=DIGEST_BYTES)
    for column in (draw.images, draw.tops, draw.lefts, draw.hflip, draw.vflip, draw.transpose):
        digest.update(column.numpy().tobytes())
    return digest.digest()
