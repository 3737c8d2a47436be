"""An event loop whose clock jumps to the next timer, so that a test of timeouts takes no time and is exact."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


class _JumpingSelector(selectors.DefaultSelector):
    """A selector that advances the clock to the next timer instead of waiting, for loops without real sockets."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(0)
        if not events and timeout is None:
            raise AssertionError("nothing is scheduled any more, and the test still waits")
        if not events:
            self.seconds += timeout or 0.0
        return events


class _VirtualClockLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.seconds


def run_in_virtual_time(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine like asyncio.run, on a clock that starts at 0.

    It runs in a separate thread: after tests with Playwright, whose loop never ends, this thread has a running loop.
    """

    def run() -> T:
        loop = _VirtualClockLoop()
        try:
            return loop.run_until_complete(main)
        finally:
            loop.close()

    with ThreadPoolExecutor(1) as executor:
        return executor.submit(run).result()
