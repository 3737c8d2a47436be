"""What Ctrl-C and SIGTERM do: every handler of a signal is in this module.

A verb ends through its `finally` blocks (`exit_on_signals`), or without them if native code does not return. Training
finishes and saves its step, and a second signal stops at once (`catch_signals`): a cluster sends SIGTERM before it
takes the machine away (Slurm's preemption and time limit, Kubernetes). One of several processes ends with a line
(`report_sigterm`). The innermost block decides.
"""

from __future__ import annotations

import math
import os
import select
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, NoReturn

from compressor.base.errors import SrkdError

Handler = Callable[[int, FrameType | None], Any] | signal.Handlers | int | None

_handled: Counter[int] = Counter()
"""How often a handler in Python ran, by the signal's number."""


@dataclass(frozen=True)
class _Counted:
    """A handler whose calls are counted, so that a thread sees when Python could not call it."""

    handle: Callable[[int], None]

    def __call__(self, number: int, frame: FrameType | None) -> None:
        _handled[number] += 1
        self.handle(number)


def _interrupt(_: int) -> NoReturn:
    raise KeyboardInterrupt


DEFAULT_HANDLERS: Mapping[signal.Signals, Handler] = {
    signal.SIGINT: _Counted(_interrupt),
    signal.SIGTERM: signal.SIG_DFL,
}
"""The signals that ask a run to stop, and the handler of a second one."""

GRACE_SECONDS: dict[int, float] = {signal.SIGINT: 1.5, signal.SIGTERM: 10.0}
"""Time for Python to handle a signal, which it cannot do while native code does not return."""

_listener: StopRequest | None = None
"""The stop request that receives signals; None outside `catch_signals`."""
_acknowledging = threading.Lock()


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

    def receive(self, number: int) -> None:
        """Take the first signal, and restore the default handlers for the next one (unless `launched`)."""
        self.received = True
        # A handler may interrupt the printing of another line: a thread prints the line about the signal.
        threading.Thread(target=self.acknowledge_once, daemon=True).start()
        if not self.launched:
            _restore(DEFAULT_HANDLERS)

    def acknowledge_once(self) -> None:
        """Call `acknowledge`, unless that was done."""
        with _acknowledging:
            if self.acknowledge is None or self._is_acknowledged.is_set():
                return
            self._is_acknowledged.set()
            self.acknowledge()


@contextmanager
def catch_signals(request: StopRequest | None = None) -> Iterator[StopRequest]:
    """Turn the first SIGINT or SIGTERM within the block into a stop request; a second one has its default effect.

    A nested block shares the outer one's request, so that a plan of several runs stops together with the current run.
    Outside the main thread, where signals cannot be handled, this has no effect.
    """
    global _listener
    request = request or StopRequest()
    if not _in_main_thread():
        yield request
        return
    if _listener is not None:
        # Also if the outer request has already been received and its handlers are gone: this block must stop, too.
        _listener.acknowledge = _listener.acknowledge or request.acknowledge
        yield _listener
        return
    before = _handle((signal.SIGINT, signal.SIGTERM), request.receive)
    _listener = request
    try:
        yield request
    finally:
        _listener = None
        _restore(before)


@contextmanager
def exit_on_signals() -> Iterator[None]:
    """Make Ctrl-C and SIGTERM end a verb through its `finally` blocks, which remove temporary files.

    The exit codes are 130 (`KeyboardInterrupt`) and 143. Code that handles a signal itself (training, the demo server)
    keeps its handler. Native code that does not return to Python is ended after `GRACE_SECONDS`, or by a second Ctrl-C.
    """
    if not _in_main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return

    ends = list[BaseException]()

    def end(number: int) -> NoReturn:
        ends.append(KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number))
        raise ends[-1]

    # A program that is started in the background may ignore Ctrl-C.
    takes_ctrl_c = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    numbers = (signal.SIGINT, signal.SIGTERM) if takes_ctrl_c else (signal.SIGTERM,)

    def complain(ignored: sys.UnraisableHookArgs) -> None:
        if ignored.exc_value not in ends:
            complain_before(ignored)

    before, complain_before = _handle(numbers, end), sys.unraisablehook
    sys.unraisablehook = complain
    try:
        with _end_despite_native_code():
            yield
        if ends:
            raise ends[-1]  # Python ignores an exception that arrives in a finalizer, and the verb went on
    except (Exception, SystemExit) as error:
        # Native code, and an import that is cut short, turn the exception of a handler into an error of their own.
        if ends and getattr(error, "exit_code", None) != Interrupted.exit_code:
            raise ends[-1] from None
        raise
    finally:
        sys.unraisablehook = complain_before
        _restore(before)


@contextmanager
def report_sigterm() -> Iterator[threading.Event]:
    """Let SIGTERM end one of several processes with a line (training handles SIGTERM as a stop request).

    Yields the event that says that the process ends by itself; torchrun sends SIGTERM then, too. After an error the
    handler stays: the line about it must still be printed.
    """
    is_ending = threading.Event()
    if not _in_main_thread():
        yield is_ending
        return

    def end(number: int) -> None:
        if not is_ending.is_set():
            raise SrkdError("ended by SIGTERM: the job was stopped, or another process was lost")

    before = _handle((signal.SIGTERM,), end)
    yield is_ending
    _restore(before)


@contextmanager
def keep_handlers() -> Iterator[None]:
    """Restore the handlers that a library replaces within the block."""
    if not _in_main_thread():
        yield
        return
    before: dict[signal.Signals, Handler] = {
        number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        _restore(before)


def ignore_sigterm() -> None:
    """Let the process end by itself, also if SIGTERM came just before, which no handler sees now."""
    if _in_main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _handled[signal.SIGTERM] = sys.maxsize


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _handle(numbers: Sequence[signal.Signals], handler: Callable[[int], None]) -> dict[signal.Signals, Handler]:
    """Set the handler of some signals, and return the handlers before."""
    return {number: signal.signal(number, _Counted(handler)) for number in numbers}


def _restore(handlers: Mapping[signal.Signals, Handler]) -> None:
    for number, handler in handlers.items():
        # None: a handler that was not set from Python, so Python cannot restore it.
        signal.signal(number, DEFAULT_HANDLERS[number] if handler is None else handler)


@contextmanager
def _end_despite_native_code() -> Iterator[None]:
    """Let signals end the process within the block even while native code runs that never returns to Python.

    Python handles a signal only between two of its own instructions. Its C code writes the signal's number into a pipe
    at once; a thread reads it and ends the process with exit code 128 + number if no handler ran in time. A request to
    stop training is acknowledged at once and waits for the step. A second Ctrl-C ends the process at once.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    received = Counter(_handled)
    deadlines: dict[int, float] = {}

    def watch() -> None:
        while True:
            ready, _, _ = select.select([reader], [], [], 0.05 if deadlines else None)
            for number in [number for number in deadlines if _handled[number] >= received[number]]:
                del deadlines[number]
            if ready:
                byte = os.read(reader, 1)
                if not byte:
                    return
                take(byte[0])
            for number, deadline in deadlines.items():
                if time.monotonic() > deadline:
                    os._exit(128 + number)

    def take(number: int) -> None:
        if not isinstance(signal.getsignal(number), _Counted):
            return  # asyncio or a user's program has a handler of its own
        if _listener is not None:
            _listener.acknowledge_once()
        if number == signal.SIGINT and number in deadlines:
            os._exit(128 + number)
        received[number] += 1
        # The first one is a request to save, which waits for the step, however long that takes.
        may_save = _listener is not None and (_listener.launched or not _listener.received)
        grace = math.inf if number == signal.SIGINT and may_save else GRACE_SECONDS[number]
        deadlines.setdefault(number, time.monotonic() + grace)

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
