"""What the processes of a run do together. One process alone is the plain case, and does none of it."""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import TypeVar

import torch

from compressor.errors import SrkdError
from compressor.training.interrupt import Interruption
from compressor.training.place import Place

T = TypeVar("T")


class LostProcess(SrkdError):
    """Another process of the run has gone: nothing can go on without it."""


class Unanimous(SrkdError):
    """A failure that every process meets at the same step: one of them tells it."""


class ToldElsewhere(SrkdError):
    """A failure that the leading process tells: this one ends with the same exit code and no word."""

    def __init__(self, exit_code: int) -> None:
        super().__init__("")
        self.exit_code = exit_code


class Processes:
    """One process. `Group` in group.py overrides everything here that needs another one."""

    def __init__(self, place: Place | None = None) -> None:
        self.place = place or Place()
        self.wish = Interruption(launched=not self.alone)

    @property
    def alone(self) -> bool:
        return self.place.world == 1

    @property
    def leads(self) -> bool:
        return self.place.leads

    def mean_(self, tensor: torch.Tensor) -> None:
        """Replace a tensor by its mean over the processes."""

    def total_(self, tensor: torch.Tensor) -> None:
        """Replace a tensor by its sum over the processes."""

    def everyone(self, tensor: torch.Tensor) -> torch.Tensor:
        """The rows of every process, in the order of the global batch; differentiable."""
        return tensor

    def from_leader(self, value: T | None) -> T:
        """The leading process's value, on every process; what the others pass is not looked at."""
        assert value is not None
        return value

    def gathered(self, value: T) -> list[T]:
        """Every process's value, by rank."""
        return [value]

    def together(self, work: Callable[[], T]) -> T:
        """Do `work` on every process. A mistake of any ends all of them, and the leading one tells it."""
        return work()

    def agree(self, value: str, otherwise: str) -> None:
        """Refuse to go on where a value is not the same on every process: `otherwise` says what it is."""
        values = self.gathered((value, platform.node()))
        other = [(rank, host) for rank, (theirs, host) in enumerate(values) if theirs != values[0][0]]
        if other:
            rank, host = other[0]
            raise Unanimous(f"rank {rank} of {self.place.world}, on {host}, {otherwise}")

    def going_on(self, where: Callable[[], str], command: str) -> None:
        """Where the run stands and how it is continued, for the line that tells of a lost process."""
