"""What Ctrl-C and SIGTERM do: a verb ends through its `finally` blocks, and training first finishes and saves its step.

A cluster sends SIGTERM before it takes the machine away. A second signal ends training at once.
"""

from __future__ import annotations

import shlex
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from compressor.base.errors import SrkdError

DEFAULT_HANDLERS: Mapping[signal.Signals, Any] = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
}


class Ended(SystemExit):
    """SIGTERM ended a verb."""


class Interrupted(SrkdError):
    """The user stopped a run, and its state was saved."""

    exit_code = 130


def resume_command(folder: Path | str, program: str = "srkd") -> str:
    """The command that continues a run or a plan, whatever its path holds."""
    return f"{program} compress --resume {shlex.quote(str(folder))}"


@dataclass
class StopRequest:
    """A stop request of the user: `received` by this process, and `agreed` by all processes since the last step.

    A process `launched` by another program may receive a signal twice, as that program forwards signals: there a second
    one does nothing. `acknowledge` reports the first one.
    """

    received: bool = False
    agreed: bool | None = None
    launched: bool = False
    acknowledge: Callable[[], None] | None = None

    @property
    def must_stop(self) -> bool:
        return self.received if self.agreed is None else self.agreed

    @property
    def handlers(self) -> Mapping[signal.Signals, Any]:
        return dict.fromkeys(DEFAULT_HANDLERS, self._receive)

    def _receive(self, _: int, frame: FrameType | None) -> None:
        """Take a signal, and restore the default handlers for the next one (unless `launched`)."""
        if self.acknowledge is not None and not self.received:
            # A handler may interrupt the printing of another line, so a thread prints this one.
            threading.Thread(target=self.acknowledge, daemon=True).start()
        self.received = True
        if not self.launched:
            set_handlers(DEFAULT_HANDLERS)


def exit_on_signals() -> AbstractContextManager[None]:
    """Make SIGTERM end a verb through its `finally` blocks (exit code 143), as Python does at Ctrl-C."""

    def end(number: int, frame: FrameType | None) -> NoReturn:
        raise Ended(128 + number)

    return signal_handlers({signal.SIGTERM: end})


@contextmanager
def signal_handlers(handlers: Mapping[signal.Signals, Any]) -> Iterator[None]:
    """Set handlers in the block, and restore those before, whoever replaced them; only in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in DEFAULT_HANDLERS}
    try:
        set_handlers(handlers)
        yield
    finally:
        set_handlers(before)


def set_handlers(handlers: Mapping[signal.Signals, Any]) -> None:
    for number, handler in handlers.items():
        # None: a handler that was not set from Python, so Python cannot restore it.
        signal.signal(number, DEFAULT_HANDLERS[number] if handler is None else handler)
