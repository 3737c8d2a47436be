"""Ctrl-C and SIGTERM that lose nothing: the current step is finished and saved; a second signal stops at once.

SIGTERM is what a cluster sends before it takes the machine away (Slurm's preemption and time limit, Kubernetes).
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from compressor.base.errors import SrkdError

DEFAULT_HANDLERS: Mapping[signal.Signals, Callable[[int, FrameType | None], Any] | signal.Handlers] = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
}
"""The signals that ask a run to stop, and what a second one does."""


_listener: StopRequest | None = None
"""The request that signals go to, while one is listened for."""

GRACE_SECONDS = 10.0
"""Time for Python to handle SIGTERM: native code that does not return leaves it no turn."""
_handled = threading.Event()


def note_signal() -> None:
    """Say that a signal was handled: for every handler of SIGTERM."""
    _handled.set()


@contextmanager
def end_despite_native_code() -> Iterator[None]:
    """End the process by SIGTERM within the block even while native code runs that never returns to Python.

    In the same way a request to stop is acknowledged at once, and not when a step in native code has ended.

    Python handles a signal between two of its own instructions only. Its C code writes the signal's number into a pipe
    at once; a thread that reads it ends the process, with exit code 143, where no handler had a turn in time.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    _handled.clear()

    def watch() -> None:
        while received := os.read(reader, 1):
            if _listener is not None and received[0] in DEFAULT_HANDLERS:
                _listener.acknowledge_once()
            if received[0] == signal.SIGTERM and not _handled.wait(GRACE_SECONDS):
                os._exit(128 + signal.SIGTERM)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(writer)
        thread.join()
        os.close(reader)


class Interrupted(SrkdError):
    """The user stopped a run; its state is saved."""

    exit_code = 130


@dataclass
class StopRequest:
    """A request of the user to stop: `received` by this process, and `agreed` by all of them since the last step.

    Several processes must stop at the same step: one that went on would wait for the others. A process `launched` by
    another program may hear a signal twice, as that passes on what went to all of them: then a second one does nothing.
    """

    received: bool = False
    agreed: bool | None = None
    launched: bool = False
    acknowledge: Callable[[], None] | None = None
    """Says that the signal was heard: called once, from a thread of its own."""
    _is_acknowledged: threading.Event = field(default_factory=threading.Event)

    @property
    def must_stop(self) -> bool:
        return self.received if self.agreed is None else self.agreed

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Handle the first signal; the next one meets the default handler."""
        note_signal()
        self.received = True
        # A handler interrupts anything, also a line that is being printed: the line about it waits on a thread.
        threading.Thread(target=self.acknowledge_once, daemon=True).start()
        if not self.launched:
            for each, handler in DEFAULT_HANDLERS.items():
                signal.signal(each, handler)

    def acknowledge_once(self) -> None:
        """Call `acknowledge`, unless that was done."""
        with _acknowledging:
            if self.acknowledge is None or self._is_acknowledged.is_set():
                return
            self._is_acknowledged.set()
            self.acknowledge()


_acknowledging = threading.Lock()


@contextmanager
def catch_signals(request: StopRequest | None = None) -> Iterator[StopRequest]:
    """Turn a first SIGINT or SIGTERM into a stop request within the block; a second one does what it does by default.

    A block within a block shares the outer one's request, so that a plan of runs stops with the run that was asked to.
    Outside the main thread, where signals cannot be handled, nothing changes.
    """
    request = request or StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    global _listener
    if _listener is not None:
        # Also where the outer one was received already, and its handlers are gone: this block is to stop, too.
        _listener.acknowledge = _listener.acknowledge or request.acknowledge
        yield _listener
        return
    before = {number: signal.getsignal(number) for number in DEFAULT_HANDLERS}
    for number in DEFAULT_HANDLERS:
        signal.signal(number, request.receive)
    _listener = request
    try:
        yield request
    finally:
        _listener = None
        for number, handler in before.items():
            # None: a handler that was not set from Python, and that Python cannot put back.
            signal.signal(number, DEFAULT_HANDLERS[number] if handler is None else handler)
