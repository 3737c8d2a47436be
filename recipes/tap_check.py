"""Taps before training: each must be there, the two maps of a pair must fit, and what a pair costs is told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

from compressor.base.errors import UsageError
from compressor.models.networks.base import Network
from compressor.models.taps import resolve_tap, tap_shapes
from compressor.training.method import Method

Shape: TypeAlias = Sequence[int]
"""The shape of a feature: N, C, h, w."""


@dataclass(frozen=True)
class Compared:
    """A pair of features that a term compares, by their taps; the student's alone where the term needs no other.

    `bytes_of(student, teacher, processes)` is what the term takes at its peak beside them, from their shapes.
    """

    term: str
    student: str
    teacher: str | None
    bytes_of: Callable[[Shape, Shape, int], int]


@runtime_checkable
class ComparesFeatures(Protocol):
    """A method whose terms build on features: the pairs are checked and reported before training."""

    def compares(self, teacher: Network | None, student: Network) -> Sequence[Compared]: ...


def own_taps(method: str, side: str, network: Network, addresses: Sequence[str]) -> list[str]:
    """The network's own names of taps; what is wrong names the method and the side."""
    try:
        return [resolve_tap(network, address) for address in addresses]
    except UsageError as error:
        raise UsageError(f"{method}, taps of the {side}: {error}") from error


def tap_lines(
    methods: Sequence[Method],
    teacher: Network | None,
    student: Network,
    *,
    batch: int,
    lr_patch: int,
    processes: int = 1,
) -> list[str]:
    """A line for each pair of features that the methods compare, or one they build on; `batch` is that of a process."""
    lines = []
    for method in methods:
        if not isinstance(method, ComparesFeatures):
            continue
        pairs = method.compares(teacher, student)
        ours = _shapes(student, [pair.student for pair in pairs], batch, lr_patch)
        asked = [pair.teacher for pair in pairs if pair.teacher is not None]
        theirs = {} if teacher is None else _shapes(teacher, asked, batch, lr_patch)
        for pair in pairs:
            other = () if pair.teacher is None else theirs[pair.teacher]
            lines.append(_line(method.name, pair, ours[pair.student], other, processes))
    return lines


def _shapes(network: Network, taps: Sequence[str], batch: int, lr_patch: int) -> dict[str, tuple[int, ...]]:
    """Of the run's own batches: a tap is a map of the LR image's size."""
    return {tap: (batch, channels, lr_patch, lr_patch) for tap, (_, channels, *_) in tap_shapes(network, taps).items()}


def _line(name: str, pair: Compared, ours: tuple[int, ...], theirs: tuple[int, ...], processes: int) -> str:
    sides = f"student {pair.student} {_times(ours)}"
    if pair.teacher is not None:
        sides += f" with teacher {pair.teacher} {_times(theirs)}"
    return f"{name}: {pair.term} of {sides}, about {pair.bytes_of(ours, theirs, processes) / 1e6:.0f} MB"


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
