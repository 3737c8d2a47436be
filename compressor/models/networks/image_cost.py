"""The cost of a network for one image, as every table and file states it. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

COMPARED_SIZE = (256, 256)
"""Width and height of the LR image for which every table counts MACs, so that all figures are comparable."""


@dataclass(frozen=True)
class Cost:
    """The cost of one image; `lr_size` is (width, height)."""

    params: int
    macs: int
    macs_plus: int
    lr_size: tuple[int, int]
