"""Ctrl-C and SIGTERM without loss: the current step is finished and saved; a second signal stops at once.

A cluster sends SIGTERM before it takes the machine away (Slurm's preemption and time limit, Kubernetes).
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
"""The signals that ask a run to stop, and the handler of a second one."""


_listener: StopRequest | None = None
"""The stop request that receives signals; None outside `catch_signals`."""

GRACE_SECONDS = 10.0
"""Time for Python to handle SIGTERM, which it cannot do while native code does not return."""
_handled = threading.Event()


def note_signal() -> None:
    """Record that a signal was handled; every handler of SIGTERM calls this."""
    _handled.set()


@contextmanager
def end_despite_native_code() -> Iterator[None]:
    """Let SIGTERM end the process within the block even while native code runs that never returns to Python.

    In the same way a stop request is acknowledged at once, and not only when a step in native code has ended.

    Python handles a signal only between two of its own instructions. Its C code writes the signal's number into a pipe
    at once; a thread reads it and ends the process with exit code 143 if no handler ran in time.
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
    """The user stopped a run, and its state was saved."""

    exit_code = 130


@dataclass
class StopRequest:
    """A stop request of the user: `received` by this process, and `agreed` by all processes since the last step.

    Several processes must stop at the same step: one that went on would wait for the others. A process `launched` by
    another program may receive a signal twice, as that program forwards signals: there a second one does nothing.
    """

    received: bool = False
    agreed: bool | None = None
    launched: bool = False
    acknowledge: Callable[[], None] | None = None
    """Reports that the signal was received: called once, from a thread of its own."""
    _is_acknowledged: threading.Event = field(default_factory=threading.Event)

    @property
    def must_stop(self) -> bool:
        return self.received if self.agreed is None else self.agreed

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Handle the first signal and restore the default handlers for the next one (unless `launched`)."""
        note_signal()
        self.received = True
        # A handler may interrupt the printing of another line: a thread prints the line about the signal.
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
    """Turn the first SIGINT or SIGTERM within the block into a stop request; a second one has its default effect.

    A nested block shares the outer one's request, so that a plan of several runs stops together with the current run.
    Outside the main thread, where signals cannot be handled, this has no effect.
    """
    request = request or StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    global _listener
    if _listener is not None:
        # Also if the outer request has already been received and its handlers are gone: this block must stop, too.
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
            # None: a handler that was not set from Python, so Python cannot restore it.
            signal.signal(number, DEFAULT_HANDLERS[number] if handler is None else handler)
