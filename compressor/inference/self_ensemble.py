"""The self-ensemble ('+' in tables): the mean of a network's outputs over the eight symmetries of the square.

Timofte et al., 'Seven ways to improve example-based single image super resolution', 2016; averaged before any
rounding. Figures with it are never to be compared with figures without.
"""

from __future__ import annotations

from itertools import product

from torch import Tensor

from compressor.inference.tiling import Run


def apply_symmetry(images: Tensor, *, vflip: bool, hflip: bool, transpose: bool) -> Tensor:
    """Return t(h(v(x))): rows reversed, then columns, then both exchanged."""
    if vflip:
        images = images.flip(-2)
    if hflip:
        images = images.flip(-1)
    return images.transpose(-1, -2) if transpose else images


def undo_symmetry(images: Tensor, *, vflip: bool, hflip: bool, transpose: bool) -> Tensor:
    """Invert `apply_symmetry`: each step undone, the last one first, because transpose and flips do not commute."""
    if transpose:
        images = images.transpose(-1, -2)
    if hflip:
        images = images.flip(-1)
    return images.flip(-2) if vflip else images


def with_self_ensemble(run: Run) -> Run:
    """Return `run` averaged over the eight symmetries: eight times the work, the memory of one more output."""

    def run_averaged(lr: Tensor) -> Tensor:
        total: Tensor | None = None
        for vflip, hflip, transpose in product((False, True), repeat=3):
            turned = apply_symmetry(lr, vflip=vflip, hflip=hflip, transpose=transpose).contiguous()
            sr = undo_symmetry(run(turned), vflip=vflip, hflip=hflip, transpose=transpose)
            total = sr.clone() if total is None else total.add_(sr)
        assert total is not None
        return total.div_(8)

    return run_averaged
