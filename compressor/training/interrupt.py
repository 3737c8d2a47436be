"""Ctrl-C that loses nothing: the step in hand is finished and saved, a second Ctrl-C stops at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from compressor.errors import SrkdError


class Interrupted(SrkdError):
    """The user stopped a run; its state is saved."""

    exit_code = 130


@dataclass
class Interruption:
    """Whether the user has asked to stop."""

    asked: bool = False


@contextmanager
def interruption() -> Iterator[Interruption]:
    """Within the block a first SIGINT is only noted; a second one is Python's own. Elsewhere than in the main thread,
    where signals cannot be handled, nothing changes."""
    wish = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield wish
        return
    before = signal.getsignal(signal.SIGINT)

    def note(number: int, frame: FrameType | None) -> None:
        wish.asked = True
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, note)
    try:
        yield wish
    finally:
        signal.signal(signal.SIGINT, before)
