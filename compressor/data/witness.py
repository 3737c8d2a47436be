"""What a run has drawn, as hashes: two runs that print the same ones saw the same batches."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from compressor.data.sampler import Draw

DIGEST_BYTES = 8
"""Of each step; steps are folded into 16 bytes a row of metrics."""


class Witness:
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
