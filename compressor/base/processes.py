"""Ctrl-C and SIGTERM that lose nothing: the step in hand is finished and saved; a second one stops at once.

SIGTERM is what a cluster sends before it takes the machine away (Slurm's preemption and time limit, Kubernetes).

What the processes of a run do together. One process alone is the plain case, and does none of it.
"""

from __future__ import annotations

import platform
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

from compressor.base.errors import SrkdError
from compressor.base.rank import Rank

if TYPE_CHECKING:
    import torch

AT_ONCE: Mapping[signal.Signals, Callable[[int, FrameType | None], Any] | signal.Handlers] = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
}
"""The signals that ask a run to stop, and what a second one does."""


class Interrupted(SrkdError):
    """The user stopped a run; its state is saved."""

    exit_code = 130


@dataclass
class Interruption:
    """Whether the user has asked to stop, here; and with several processes, what all of them know since the last step.

    They must stop at the same step: one that went on would wait for the others. Who was `launched` by another program
    may hear a signal twice, as that passes on what went to all of them: then a second one does nothing.
    """

    asked: bool = False
    known_to_all: bool | None = None
    launched: bool = False

    @property
    def stops(self) -> bool:
        return self.asked if self.known_to_all is None else self.known_to_all

    def note(self, number: int, frame: FrameType | None) -> None:
        """The first signal; the next one meets what it does by default."""
        self.asked = True
        if not self.launched:
            for each, handler in AT_ONCE.items():
                signal.signal(each, handler)


@contextmanager
def interruption(wish: Interruption | None = None) -> Iterator[Interruption]:
    """Within the block a first SIGINT or SIGTERM is only noted; a second one does what such a signal does by default.
    A block within a block shares the outer one's wish: a plan of runs hears what a run was told. Elsewhere than in the
    main thread, where signals cannot be handled, nothing changes."""
    wish = wish or Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield wish
        return
    before = {number: signal.getsignal(number) for number in AT_ONCE}
    outer = getattr(before[signal.SIGINT], "__self__", None)
    if isinstance(outer, Interruption):
        yield outer
        return
    for number in AT_ONCE:
        signal.signal(number, wish.note)
    try:
        yield wish
    finally:
        for number, handler in before.items():
            # None: a handler that was not set from Python, and that Python cannot put back.
            signal.signal(number, AT_ONCE[number] if handler is None else handler)


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

    def __init__(self, place: Rank | None = None) -> None:
        self.place = place or Rank()
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

    def run_on_all(self, work: Callable[[], T]) -> T:
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
