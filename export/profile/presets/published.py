"""Published tables of speeds: their networks, with the figures that the papers state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class PublishedNetwork:
    """A network of a table. `spec` is the input of `spec_from_dict`; MACs are at the table's size. None: not stated."""

    label: str
    spec: Mapping[str, object]
    fps: float | None = None
    speedup: float | None = None
    """Speed-up over the teacher of the pair."""
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
    """The device on which the figures were measured."""
    lr_size: tuple[int, int]
    """Width and height of the LR images of the figures; if the paper states none, a default size."""
    pairs: tuple[Pair, ...]
    states_size: bool = True
    omitted: tuple[str, ...] = ()
    """Columns or rows of the table that a profile cannot give, with reasons."""
