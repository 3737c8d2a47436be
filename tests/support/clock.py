"""A clock for tests of timings."""

from __future__ import annotations

from collections.abc import Callable


class Clock:
    """A clock that only work moves forward; `calls` are the names of the work in order."""

    def __init__(self) -> None:
        self.now, self.calls = 0.0, ""

    def perf_counter(self) -> float:
        return self.now

    def work(self, name: str, seconds: float, first_seconds: float | None = None) -> Callable[[], None]:
        def call() -> None:
            self.now += seconds if first_seconds is None or name in self.calls else first_seconds
            self.calls += name

        return call
