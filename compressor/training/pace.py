"""The speed of a run's steps, and the time that is left."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence

WARM_UP_STEPS = 1
"""Number of first steps that are not timed: they also allocate, compile and read files."""
WINDOW_SECONDS = 30.0
"""Time window of the current speed, in seconds."""


class Pace:
    """The speed of the steps from `done` on, of stages that end at `ends`."""

    def __init__(self, done: int, ends: Sequence[int]) -> None:
        self.first, self.done, self.ends = done, done, ends
        self.began = time.monotonic()
        self._times: deque[tuple[float, int]] = deque([(self.began, done)])
        self._warm: tuple[float, int] | None = None

    def step(self, done: int) -> None:
        now, before = time.monotonic(), self.done
        self.done = done
        if before in self.ends:
            # A stage begins, with a speed of its own.
            self.first, self.began, self._warm = before, self._times[-1][0], None
            self._times = deque([self._times[-1]])
        if self._warm is None and done - self.first >= WARM_UP_STEPS:
            self._warm = now, done
        self._times.append((now, done))
        while len(self._times) > 2 and now - self._times[1][0] > WINDOW_SECONDS:
            self._times.popleft()

    @property
    def steps_per_second(self) -> float:
        """Steps per second in the last half minute; 0 before the first step."""
        (start, before), (now, done) = self._times[0], self._times[-1]
        return (done - before) / max(now - start, 1e-9)

    @property
    def seconds_left(self) -> float:
        """Seconds until the last step at the mean speed of this stage so far, validations included."""
        start, before = self._warm or (self.began, self.first)
        if self.done <= before:
            start, before = self.began, self.first
        seconds = (self._times[-1][0] - start) / max(1, self.done - before)
        return seconds * (self.ends[-1] - self.done)

    def line(self, loss: float) -> str:
        """Return a line such as `loss 0.0213, 4.85 steps/s`."""
        return f"loss {loss:.4f}, {self.steps_per_second:.2f} steps/s"
