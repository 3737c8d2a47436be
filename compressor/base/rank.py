"""Where this process stands among those that torchrun started, as the environment says; no torch here."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

from compressor.base.errors import UsageError


@dataclass(frozen=True)
class Rank:
    """One process of `world`; `local_rank` counts those of this machine, `restarts` how often torchrun began anew."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    restarts: int = 0

    @classmethod
    def here(cls, environment: Mapping[str, str] = os.environ) -> Rank:
        """From what torchrun sets; a process that nobody numbered is alone."""
        if "RANK" not in environment or "WORLD_SIZE" not in environment:
            return cls()
        place = cls(
            rank=_count(environment, "RANK"),
            world=_count(environment, "WORLD_SIZE"),
            local_rank=_count(environment, "LOCAL_RANK"),
            restarts=_count(environment, "TORCHELASTIC_RESTART_COUNT"),
        )
        if not place.rank < place.world:
            raise UsageError(f"RANK={place.rank} is no rank among WORLD_SIZE={place.world}: start with torchrun")
        return place

    @property
    def leads(self) -> bool:
        """Whether this is the one process that speaks and writes the run folder."""
        return self.rank == 0

    def share(self, batch: int) -> range:
        """This process's samples of a global batch, by their global indices."""
        if batch % self.world:
            lower = batch - batch % self.world
            offers = [str(near) for near in (lower, lower + self.world) if near]
            raise UsageError(
                f"a batch of {batch} cannot be shared evenly by {self.world} processes: "
                f"--set schedule.batch={' or '.join(offers)}, or another number of processes"
            )
        each = batch // self.world
        return range(self.rank * each, (self.rank + 1) * each)


def _count(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name, "0")
    if not text.isdecimal():
        raise UsageError(f"{name}={text!r} in the environment is no count: start with torchrun")
    return int(text)


def leave(code: int) -> NoReturn:
    """End one of several processes with `code`, all said and written, without taking Python down.

    Threads of torch's process groups may still be inside a library then, and the C++ runtime ends such a process with
    an abort: a run that went well would be told as failed.
    """
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)
