"""How fast a run goes, by its own steps, and how long it will take."""

from __future__ import annotations

import time
from collections import deque

import torch

from compressor.base.durations import describe_duration, format_duration

WARM_UP_STEPS = 1
"""The first step also allocates, compiles and reads files for the first time."""
ESTIMATE_STEPS, ESTIMATE_SECONDS = 20, 3.0
"""A run's length is estimated after so many steps, or after so many seconds and at least two steps."""
WORTH_SAYING_SECONDS = 20.0
"""A shorter run is over before its estimate is read."""
WINDOW_SECONDS = 30.0
"""Steps a second are those of this last time."""


def describe_device(device: torch.device, processes: int = 1) -> str:
    """Return what the run computes on, as a person calls it."""
    threads = torch.get_num_threads()
    if device.type != "cpu":
        where = str(device) if processes == 1 else device.type
    elif processes == 1:
        where = "1 thread" if threads == 1 else f"these {threads} threads"
    else:
        where = "1 thread" if threads == 1 else f"{threads} threads"
    return f"on {where}" if processes == 1 else f"on {processes} processes, each on {where}"


class Pace:
    """The speed of the steps from `done` to `steps`, `where` they are computed.

    `runs` like this are still to be made, this one included.
    """

    def __init__(self, done: int, steps: int, *, where: str, runs: int = 1) -> None:
        self.first, self.done, self.steps, self.where, self.runs = done, done, steps, where, runs
        self.began = time.monotonic()
        self._times: deque[tuple[float, int]] = deque([(self.began, done)])
        self._warm: tuple[float, int] | None = None
        self._has_estimated = False

    def step(self, done: int) -> None:
        """Note that a step has ended."""
        now, self.done = time.monotonic(), done
        if self._warm is None and done - self.first >= WARM_UP_STEPS:
            self._warm = now, done
        self._times.append((now, done))
        while len(self._times) > 2 and now - self._times[1][0] > WINDOW_SECONDS:
            self._times.popleft()

    @property
    def steps_per_second(self) -> float:
        """Steps a second of the last half minute; 0 before the first."""
        (start, before), (now, done) = self._times[0], self._times[-1]
        return (done - before) / max(now - start, 1e-9)

    @property
    def seconds_left(self) -> float:
        """Seconds to the last step at the mean speed so far, validations included."""
        start, before = self._warm or (self.began, self.first)
        if self.done <= before:
            start, before = self.began, self.first
        seconds = (self._times[-1][0] - start) / max(1, self.done - before)
        return seconds * (self.steps - self.done)

    def line(self, loss: float) -> str:
        """Return loss and speed."""
        return f"loss {loss:.4f}, {self.steps_per_second:.2f} steps/s"

    def estimate(self) -> str | None:
        """Return the line about the length of the run, once, as soon as enough steps were timed; else None."""
        if self._has_estimated or self._warm is None:
            return None
        start, before = self._warm
        count, seconds = self.done - before, self._times[-1][0] - start
        if count < ESTIMATE_STEPS and not (count >= 2 and seconds >= ESTIMATE_SECONDS):
            return None
        self._has_estimated = True
        left = self.steps - before
        total = seconds / count * left
        if total < WORTH_SAYING_SECONDS:
            return None
        line = f"time: {describe_duration(total, left, self.where)}"
        line += f" ({count / seconds:.2f} steps/s, validations apart)"
        more = f"; this run and the {self.runs - 1} after it about {format_duration(total * self.runs)}"
        return line + (more if self.runs > 1 else "")
