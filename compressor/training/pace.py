"""The speed of a run, measured on its own steps, and its expected duration."""

from __future__ import annotations

import time
from collections import deque

import torch

from compressor.base.durations import describe_duration, format_duration
from compressor.base.machine import count_threads

WARM_UP_STEPS = 1
"""Number of first steps that are not timed: they also allocate, compile and read files."""
ESTIMATE_STEPS, ESTIMATE_SECONDS = 20, 3.0
"""A run's duration is estimated after this many steps, or after this many seconds and at least two steps."""
WORTH_SAYING_SECONDS = 20.0
"""Duration below which no estimate is reported."""
WINDOW_SECONDS = 30.0
"""Time window of the current speed, in seconds."""


def describe_device(device: torch.device, processes: int = 1) -> str:
    """Return words for the user, such as `on cuda:0`, or `on 2 processes, each on 1 thread`."""
    threads = torch.get_num_threads()
    if device.type != "cpu":
        where = str(device) if processes == 1 else device.type
    elif processes == 1:
        where = "1 thread" if threads == 1 else f"these {threads} threads"
    else:
        where = count_threads(threads)
    return f"on {where}" if processes == 1 else f"on {processes} processes, each on {where}"


class Pace:
    """The speed of the steps from `done` to `steps`, on the device described by `where`.

    `runs` is the number of runs of a plan that are still to be done, including this one.
    """

    def __init__(self, done: int, steps: int, *, where: str, runs: int = 1) -> None:
        self.first, self.done, self.steps, self.where, self.runs = done, done, steps, where, runs
        self.began = time.monotonic()
        self._times: deque[tuple[float, int]] = deque([(self.began, done)])
        self._warm: tuple[float, int] | None = None
        self._has_estimated = False

    def step(self, done: int) -> None:
        """Record the end of a step."""
        now, self.done = time.monotonic(), done
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
        """Seconds until the last step at the mean speed so far, including validations."""
        start, before = self._warm or (self.began, self.first)
        if self.done <= before:
            start, before = self.began, self.first
        seconds = (self._times[-1][0] - start) / max(1, self.done - before)
        return seconds * (self.steps - self.done)

    def line(self, loss: float) -> str:
        """Return a line such as `loss 0.0213, 4.85 steps/s`."""
        return f"loss {loss:.4f}, {self.steps_per_second:.2f} steps/s"

    def estimate(self) -> str | None:
        """Return the line about the duration of the run, once, as soon as enough steps were timed; else None."""
        if self._has_estimated or self._warm is None:
            return None
        start, before = self._warm
        count, seconds = self.done - before, self._times[-1][0] - start
        if count < ESTIMATE_STEPS and not (count >= 2 and seconds >= ESTIMATE_SECONDS):
            return None
        self._has_estimated = True
        steps = self.steps - before
        total = seconds / count * steps
        if total < WORTH_SAYING_SECONDS:
            return None
        line = f"time: {describe_duration(total, steps, self.where)}"
        line += f" ({count / seconds:.2f} steps/s, validations apart)"
        more = f"; this run and the {self.runs - 1} after it about {format_duration(total * self.runs)}"
        return line + (more if self.runs > 1 else "")
