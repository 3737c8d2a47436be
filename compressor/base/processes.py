"""The processes of a run: the rank of this one, and their collective operations, here for a single process.

`compressor/training/distributed.py` has the case of several, started by torchrun. This module imports no torch.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn, TypeVar

from compressor.base.errors import SrkdError, UsageError
from compressor.base.interrupts import StopRequest

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


class LostProcess(SrkdError):
    """Another process of the run has ended: the run cannot continue without it."""


class SharedFailure(SrkdError):
    """A failure that occurs in every process at the same step: only the leader reports it."""


class ReportedElsewhere(SrkdError):
    """A failure that the leader reports: this process ends with the same exit code and prints nothing."""

    def __init__(self, exit_code: int) -> None:
        super().__init__("")
        self.exit_code = exit_code


@dataclass(frozen=True)
class Rank:
    """One process of `world_size`: its rank, its rank on this machine, and how often torchrun restarted the run."""

    index: int = 0
    world_size: int = 1
    local_rank: int = 0
    restarts: int = 0

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Rank:
        """Return the rank from the variables that torchrun sets; without them, that of a single process."""
        if "RANK" not in environment or "WORLD_SIZE" not in environment:
            return cls()
        counts = []
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "TORCHELASTIC_RESTART_COUNT"):
            text = environment.get(name, "0")
            if not text.isdecimal():
                raise UsageError(f"{name}={text!r} in the environment is not a count: start with torchrun")
            counts.append(int(text))
        rank = cls(*counts)
        if not rank.index < rank.world_size:
            raise UsageError(f"RANK={rank.index} is not a rank below WORLD_SIZE={rank.world_size}: start with torchrun")
        return rank

    @property
    def is_leader(self) -> bool:
        """True for rank 0, the only one that prints and writes the run folder."""
        return self.index == 0

    def share(self, batch: int) -> range:
        """Return this process's samples of a global batch, by their global indices."""
        if batch % self.world_size:
            lower = batch - batch % self.world_size
            offers = [str(size) for size in (lower, lower + self.world_size) if size]
            raise UsageError(
                f"a batch of {batch} cannot be shared evenly by {self.world_size} processes: "
                f"--batch {' or '.join(offers)}, or another number of processes"
            )
        share = batch // self.world_size
        return range(self.index * share, (self.index + 1) * share)


class Processes:
    """A run of one process. `ProcessGroup` in training/distributed.py overrides what needs other processes."""

    def __init__(self, rank: Rank | None = None) -> None:
        self.rank = rank or Rank()
        self.stop_request = StopRequest(launched=not self.is_single)

    @property
    def is_single(self) -> bool:
        return self.rank.world_size == 1

    @property
    def is_leader(self) -> bool:
        return self.rank.is_leader

    def sum_(self, tensor: torch.Tensor) -> None:
        """Replace a tensor by its sum over the processes."""

    def all_gather(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the rows of every process, in the order of the global batch; differentiable."""
        return tensor

    def broadcast(self, value: T | None) -> T:
        """Return the leader's value on every process; the others' values are ignored."""
        assert value is not None
        return value

    def gather_objects(self, value: T) -> list[T]:
        """Return every process's value, by rank."""
        return [value]

    def run_on_all(self, work: Callable[[], T]) -> T:
        """Run `work` on every process. An error in any of them ends all, and the leader reports it."""
        return work()

    def from_leader(self, work: Callable[[], T]) -> T:
        """The result of `work`, which the leader alone does, on every process. An error in it ends all."""
        return work()

    def require_equal(self, value: str, message: str) -> None:
        """Raise an error if `value` differs between processes; `message` says which value it is."""
        values = self.gather_objects((value, platform.node()))
        others = [(index, host) for index, (other, host) in enumerate(values) if other != values[0][0]]
        if others:
            index, host = others[0]
            raise SharedFailure(f"rank {index} of {self.rank.world_size}, on {host}, {message}")

    def set_resume_hint(self, position: Callable[[], str], command: str) -> None:
        """Set the run's position and the command that resumes it, for the message about a lost process."""


def exit_process(code: int) -> NoReturn:
    """Flush the output and end one of several processes with `code`, without Python's own shutdown.

    During that, threads of torch's process groups may still be inside a library, and the C++ runtime would abort the
    process: a successful run would be reported as failed.
    """
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)
