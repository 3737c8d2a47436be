"""Taps before training: each must be there, the two maps of a pair must fit, and what a pair costs is told."""

from __future__ import annotations

from collections.abc import Sequence

from compressor.networks.base import Network
from compressor.taps import tap_shapes
from compressor.training.method import Compared, Method


def tap_lines(
    methods: Sequence[Method],
    teacher: Network | None,
    student: Network,
    *,
    batch: int,
    lr_patch: int,
    processes: int = 1,
) -> list[str]:
    """A line for each pair of features that the methods compare; `batch` counts the patches of one process."""
    lines = []
    for method in methods:
        pairs = method.compares(teacher, student)
        if not pairs:
            continue
        ours = _shapes(student, [pair.student for pair in pairs], batch, lr_patch)
        theirs = {} if teacher is None else _shapes(teacher, [pair.teacher for pair in pairs], batch, lr_patch)
        lines += [_line(method.name, pair, ours[pair.student], theirs[pair.teacher], processes) for pair in pairs]
    return lines


def _shapes(network: Network, taps: Sequence[str], batch: int, lr_patch: int) -> dict[str, tuple[int, ...]]:
    """Of the run's own batches: a tap is a map of the LR image's size."""
    return {tap: (batch, channels, lr_patch, lr_patch) for tap, (_, channels, *_) in tap_shapes(network, taps).items()}


def _line(name: str, pair: Compared, ours: tuple[int, ...], theirs: tuple[int, ...], processes: int) -> str:
    sides = f"student {pair.student} {_times(ours)} with teacher {pair.teacher} {_times(theirs)}"
    return f"{name}: {pair.term} of {sides}, about {pair.bytes_of(ours, theirs, processes) / 1e6:.0f} MB"


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
