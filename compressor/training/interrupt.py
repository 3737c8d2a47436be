"""Ctrl-C and SIGTERM that lose nothing: the step in hand is finished and saved; a second one stops at once.

SIGTERM is what a cluster sends before it takes the machine away (Slurm's preemption and time limit, Kubernetes).
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

from compressor.errors import SrkdError

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
