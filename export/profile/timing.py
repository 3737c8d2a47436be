"""Latency that can be compared: everything warm, in turns in one process, judged by paired ratios.

Two measurements one after the other differ by whatever else the machine did meanwhile. Here every model has a turn in
each round, in alternating order, and only ratios within a round are compared: a slow second slows both.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import psutil

from compressor.base.context import Progress, no_progress
from compressor.base.errors import SrkdError, UsageError

Call = Callable[[], object]
"""Runs one batch and returns when its output is complete."""

Verdict = Literal["faster", "slower", "no measurable difference"]

MIN_ROUNDS = 8
"""The fewest that give the interval below."""

TARGET_ROUNDS = 20
CONFIDENCE = 0.99
NO_DIFFERENCE = 0.02
"""Medians closer than this count as equal, however narrow the interval: memory placement alone can do that much."""


@dataclass(frozen=True)
class Timing:
    """Milliseconds of each call, by round; `first_ms` is the first call of all, which is in no round."""

    rounds: tuple[tuple[float, ...], ...]
    first_ms: float | None = None

    @property
    def samples(self) -> tuple[float, ...]:
        return tuple(ms for turn in self.rounds for ms in turn)

    def percentile(self, percent: float) -> float:
        return float(np.percentile(self.samples, percent))

    @property
    def spread_percent(self) -> float:
        """The distance between the quartiles in percent of the median."""
        return 100 * (self.percentile(75) - self.percentile(25)) / self.percentile(50)


@dataclass(frozen=True)
class Comparison:
    """The speed-up over the reference: the median of the rounds' ratios, and an interval for it."""

    speedup: float
    low: float
    high: float

    @property
    def verdict(self) -> Verdict:
        if self.low <= 1.0 <= self.high or abs(self.speedup - 1.0) < NO_DIFFERENCE:
            return "no measurable difference"
        return "faster" if self.speedup > 1.0 else "slower"


def compare(reference: Timing, other: Timing) -> Comparison:
    """Compare two timings, paired by round. The interval is of order statistics, which assume no distribution."""
    if len(reference.rounds) != len(other.rounds):
        raise SrkdError(f"{len(reference.rounds)} rounds cannot be paired with {len(other.rounds)}")
    ratios = np.sort([np.median(a) / np.median(b) for a, b in zip(reference.rounds, other.rounds, strict=True)])
    excluded = _excluded_ranks(len(ratios))
    return Comparison(float(np.median(ratios)), float(ratios[excluded]), float(ratios[-1 - excluded]))


def take_turns(calls: Sequence[Call], *, seconds_each: float, progress: Progress = no_progress) -> tuple[Timing, ...]:
    """Time all calls in turns for about `seconds_each` times their number, and at least eight rounds."""
    if not seconds_each > 0:
        raise UsageError(f"seconds={seconds_each:g}: give a positive number")
    turn_seconds = seconds_each / TARGET_ROUNDS
    repeats, first = [], []
    for done, call in enumerate(calls):
        progress("warm up", done, len(calls))
        first.append(_seconds(call))
        seconds = _seconds(call)
        if seconds <= 1.0:  # a short call is timed twice, because the first may still be slow
            seconds = min(seconds, _seconds(call))
        repeats.append(max(1, min(100, round(turn_seconds / seconds))))
    progress("warm up", len(calls), len(calls))
    rounds: list[list[tuple[float, ...]]] = [[] for _ in calls]
    budget = seconds_each * len(calls)
    with _no_garbage_collection():
        started = time.perf_counter()
        while len(rounds[0]) < MIN_ROUNDS or time.perf_counter() - started < budget:
            order = range(len(calls)) if len(rounds[0]) % 2 == 0 else reversed(range(len(calls)))
            for index in order:
                rounds[index].append(_turn(calls[index], repeats[index]))
            spent = (time.perf_counter() - started) / budget
            progress("measure", int(999 * min(1.0, spent, len(rounds[0]) / MIN_ROUNDS)), 1000)
    progress("measure", 1000, 1000)
    return tuple(Timing(tuple(turns), 1000 * seconds) for turns, seconds in zip(rounds, first, strict=True))


def _turn(call: Call, repeats: int) -> tuple[float, ...]:
    """Return one turn in milliseconds; a short call first runs once untimed, because the caches hold another model."""
    if repeats > 1:
        call()
    return tuple(1000 * _seconds(call) for _ in range(repeats))


def _seconds(call: Call) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _excluded_ranks(count: int, confidence: float = CONFIDENCE) -> int:
    """Return how many of `count` sorted values can be left out at each end so that the median stays inside.

    The median lies between the (k+1)-th value from either end with probability 1 - 2·P(Bin(count, 1/2) <= k).
    """
    excluded, tail = 0, 0.5**count
    while True:
        tail += math.comb(count, excluded + 1) * 0.5**count
        if 1 - 2 * tail < confidence or 2 * (excluded + 1) >= count:
            return excluded
        excluded += 1


class OtherPrograms:
    """The load of the machine by other programs since this object was created."""

    def __init__(self) -> None:
        self._start = self._read_clocks()

    def busy_cores(self) -> float:
        """Return the average number of cores that were busy with other programs."""
        wall, machine, process = (now - start for now, start in zip(self._read_clocks(), self._start, strict=True))
        return max(0.0, machine - process) / max(wall, 1e-9)

    @staticmethod
    def _read_clocks() -> tuple[float, float, float]:
        """Return the wall clock, the CPU time of the whole machine and that of this process, in seconds."""
        machine = psutil.cpu_times()
        idle = machine.idle + getattr(machine, "iowait", 0.0)
        # The time of guests is also part of user time.
        guests = getattr(machine, "guest", 0.0) + getattr(machine, "guest_nice", 0.0)
        return time.perf_counter(), sum(machine) - idle - guests, time.process_time()


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Turn Python's garbage collector off inside: it would slow a random model."""
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
