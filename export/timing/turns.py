"""Comparable latencies: warm models take turns and are judged by paired ratios.

Two measurements one after the other differ by the load of the machine. Here every model has a turn in each round, in
alternating order, and only ratios within a round are compared: a slow second slows both. A turn is a function, so the
models may be in this process or each in a process of its own: only one of them computes at a time.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeVar

import numpy as np

from compressor.base.context import Progress, no_progress
from compressor.base.errors import SrkdError

T = TypeVar("T")

Call = Callable[[], object]
"""Function that runs one batch and returns when its output is complete."""


@dataclass(frozen=True)
class TurnTimes:
    """Milliseconds of each call of a turn; `cpu_ms` is the mean CPU time per call, if a single thread computed it."""

    ms: tuple[float, ...]
    cpu_ms: float | None = None


Turn = Callable[[int], TurnTimes]
"""Function that runs a number of batches one after the other."""

Lost = Callable[[int, SrkdError], None]
"""Function called with the index of a failed turn and its error; the others continue."""

SpeedVerdict = Literal["faster", "slower", "no measurable difference"]

MIN_ROUNDS = 8
"""Fewest rounds that give an interval of the confidence below."""

TARGET_ROUNDS = 20
CONFIDENCE = 0.99
NO_DIFFERENCE = 0.02
"""The whole interval must exceed this share for a verdict: two processes of one model differ by that much, depending on
where their memory lies."""

STEADY = 0.05
"""A model is warm when no further call is faster than the fastest before by more than this share."""
WARM_UP_SECONDS, MOST_WARM_UP_CALLS = 0.05, 20
"""Duration and largest number of calls of each check whether a model is warm."""


@dataclass(frozen=True)
class CallTimes:
    """Milliseconds of each call, by round; `warm_up_calls` ran before the first round, and `is_steady` says whether
    they had stopped getting faster."""

    rounds: tuple[tuple[float, ...], ...]
    cpu_rounds: tuple[float, ...] | None = None
    """CPU milliseconds of a call, by round, if a single thread computed it."""
    warm_up_calls: int = 0
    is_steady: bool = True

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
class SpeedUp:
    """The speed-up over the reference: the median of the rounds' ratios, and its interval. `cpu` is the interval of the
    CPU times, if both have them."""

    speedup: float
    low: float
    high: float
    cpu: tuple[float, float] | None = None

    @property
    def verdict(self) -> SpeedVerdict:
        """Return "faster" or "slower" if all of the interval, and of that of CPU times, is beyond `NO_DIFFERENCE`.

        On a busy machine one of two processes may wait longer in every round, because of the core that it is on.
        """
        intervals = [(self.low, self.high), *([] if self.cpu is None else [self.cpu])]
        if all(low > 1 + NO_DIFFERENCE for low, _ in intervals):
            return "faster"
        if all(high < 1 / (1 + NO_DIFFERENCE) for _, high in intervals):
            return "slower"
        return "no measurable difference"


def compare(reference: CallTimes, other: CallTimes) -> SpeedUp:
    """Compare two timings, paired by round. The interval is by order statistics, which assume no distribution."""
    ratios = [np.median(a) / np.median(b) for a, b in zip(reference.rounds, other.rounds, strict=True)]
    cpu = None
    if reference.cpu_rounds is not None and other.cpu_rounds is not None:
        cpu = _interval([a / b for a, b in zip(reference.cpu_rounds, other.cpu_rounds, strict=True)])
    return SpeedUp(float(np.median(ratios)), *_interval(ratios), cpu)


def _interval(ratios: Sequence[float]) -> tuple[float, float]:
    """An interval for the median, with confidence `CONFIDENCE`."""
    ordered = sorted(map(float, ratios))
    excluded = _excluded_ranks(len(ordered))
    return ordered[excluded], ordered[-1 - excluded]


def take_turns(
    calls: Sequence[Call], *, seconds_each: float, progress: Progress = no_progress
) -> tuple[CallTimes, ...]:
    """Time calls of this process in turns, as `measure_turns` does."""
    with no_garbage_collection():
        timings = measure_turns(
            [partial(_turn_here, call) for call in calls], seconds_each=seconds_each, progress=progress
        )
    return tuple(timing for timing in timings if timing is not None)


def measure_turns(
    turns: Sequence[Turn], *, seconds_each: float, progress: Progress = no_progress, lost: Lost | None = None
) -> tuple[CallTimes | None, ...]:
    """Warm up all, then give each a turn in every round, for about `seconds_each` times their number and at least
    eight rounds.

    If one fails, `lost` is called, its timing is None and the others continue; without `lost` the error is raised.
    """
    alive = dict(enumerate(turns))

    def run(index: int, work: Callable[[Turn], T]) -> T | None:
        try:
            return work(alive[index])
        except SrkdError as error:
            if lost is None:
                raise
            del alive[index]
            lost(index, error)
            return None

    warm: dict[int, WarmUp] = {}
    for index in list(alive):
        progress("warm up", index, len(turns))
        result = run(index, lambda turn: warm_up(turn, seconds_each))
        if result is not None:
            warm[index] = result
    progress("warm up", len(turns), len(turns))
    turn_ms = 1000 * seconds_each / TARGET_ROUNDS
    repeats = {index: max(1, min(100, round(turn_ms / state.fastest_ms))) for index, state in warm.items()}
    rounds: dict[int, list[TurnTimes]] = {index: [] for index in alive}
    budget, started, number = seconds_each * max(1, len(alive)), time.perf_counter(), 0
    while alive and (number < MIN_ROUNDS or time.perf_counter() - started < budget):
        for index in list(alive) if number % 2 == 0 else list(reversed(alive)):
            times = run(index, lambda turn, count=repeats[index]: turn(count))  # type: ignore[misc]
            if times is not None:
                rounds[index].append(times)
        number += 1
        spent = (time.perf_counter() - started) / budget
        progress("measure", int(999 * min(1.0, spent, number / MIN_ROUNDS)), 1000)
    progress("measure", 1000, 1000)
    return tuple(_timing(rounds[index], warm[index]) if index in alive else None for index in range(len(turns)))


def _timing(rounds: Sequence[TurnTimes], warm: WarmUp) -> CallTimes:
    cpu = [times.cpu_ms for times in rounds if times.cpu_ms is not None]
    return CallTimes(
        tuple(times.ms for times in rounds),
        # also None if a turn was shorter than the resolution of the CPU clock
        tuple(cpu) if len(cpu) == len(rounds) and all(cpu) else None,
        warm.calls,
        warm.is_steady,
    )


@dataclass(frozen=True)
class WarmUp:
    """Result of the calls before the measurement."""

    calls: int
    fastest_ms: float
    is_steady: bool


def warm_up(turn: Turn, seconds: float) -> WarmUp:
    """Call a turn until it gets no faster, for at most about `seconds`."""
    (fastest,) = turn(1).ms
    started, calls = time.perf_counter(), 1  # after the first call, in which some runtimes compile: it does not count
    while True:
        count = max(1, min(MOST_WARM_UP_CALLS, round(1000 * WARM_UP_SECONDS / max(fastest, 1e-6))))
        newest = min(turn(count).ms)
        calls += count
        if newest >= (1 - STEADY) * fastest:
            return WarmUp(calls, min(newest, fastest), is_steady=True)
        fastest = newest
        if time.perf_counter() - started > seconds:
            return WarmUp(calls, fastest, is_steady=False)


def _turn_here(call: Call, count: int) -> TurnTimes:
    return TurnTimes(time_calls(call, count))


def time_calls(call: Call, count: int) -> tuple[float, ...]:
    """The milliseconds of each call. Of several, an untimed one runs first, because the caches hold another model."""
    if count > 1:
        call()
    return tuple(1000 * _seconds(call) for _ in range(count))


def _seconds(call: Call) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _excluded_ranks(count: int) -> int:
    """How many of `count` sorted values can be left out at each end, with the median still between the rest.

    The median lies between the (k+1)-th value from either end with probability 1 - 2·P(Bin(count, 1/2) <= k).
    """
    excluded, tail = 0, 0.5**count
    while True:
        tail += math.comb(count, excluded + 1) * 0.5**count
        if 1 - 2 * tail < CONFIDENCE:
            return excluded
        excluded += 1


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Turn Python's garbage collector off in the context: it would slow a random model."""
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
