"""A published table of speeds: its networks, and the figures that its paper states for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class PublishedNetwork:
    """`spec` as `spec_from_dict` reads it; MACs are at the size of the table. None is what the paper does not state."""

    label: str
    spec: Mapping[str, object]
    fps: float | None = None
    speedup: float | None = None
    """Over the teacher of its pair."""
    gmacs: float | None = None
    params_millions: float | None = None


@dataclass(frozen=True)
class Pair:
    """A teacher and the students that the paper compares with it."""

    teacher: PublishedNetwork
    students: tuple[PublishedNetwork, ...]

    @property
    def networks(self) -> tuple[PublishedNetwork, ...]:
        return (self.teacher, *self.students)


@dataclass(frozen=True)
class PublishedTable:
    """A preset of `srkd profile`. Networks are built untrained: weights do not matter for time."""

    name: str
    source: str
    device: str
    """On which the figures were measured."""
    lr_size: tuple[int, int]
    """Width and height of the images that the figures are for; where that is not stated, a size to begin with."""
    pairs: tuple[Pair, ...]
    states_size: bool = True
    omitted: tuple[str, ...] = ()
    """What the table has and a profile cannot, and why."""
