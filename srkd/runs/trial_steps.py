"""Real steps of a run, tried in memory: what each stage costs, and how many steps fit into `--minutes`.

Each stage takes a step to warm up, one or more that are timed, and one in which torch counts the operations.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch.utils.flop_counter import FlopCounterMode

from compressor.base.compute_device import ComputeDevice
from compressor.base.context import Context, format_duration
from compressor.base.errors import UsageError
from compressor.base.memory import keep_freed_memory
from compressor.base.processes import Rank
from compressor.data.batches import Batches
from compressor.training.loop import Events
from compressor.training.stage import Stage
from compressor.training.state import State
from srkd.options.compress import CompressOptions
from srkd.record.run_spec import RunSpec
from srkd.runs.blending import blend_seconds
from srkd.runs.decide import decide
from srkd.runs.opened import OpenRun, build_batches, open_run, solve, take_steps

MOST_STEPS = 10**8
TIMED_SHARE, MOST_TIMED = 0.03, 100
"""The share of the time that is left for timing steps, and the most of a stage."""
ROUNDS = 3
"""The number of steps may change the precision, and that the number of steps: as often it is decided again."""


@dataclass(frozen=True)
class StageCost:
    """One step of a stage, and how many of them the run takes."""

    name: str
    steps: int
    ms: float
    macs: int
    """Multiply-accumulates of the step as torch counts them, backward passes included."""
    first_ms: float = 0.0
    """What the first step takes beyond that: networks are built, and perhaps compiled."""

    def line(self) -> str:
        return f"{self.steps:,} steps, {self.ms:.0f} ms and {self.macs / 1e9:.1f} GMAC each"


@dataclass(frozen=True)
class RunCost:
    """The stages of a run with one step of each, a validation, and what comes once before and after the steps."""

    stages: tuple[StageCost, ...]
    validation_seconds: float
    once_seconds: float = 0.0

    def seconds(self, stages: Sequence[Stage]) -> float:
        """The seconds of a run with these stages, at whose end the student is scored once more."""
        costs, slowest = {cost.name: cost for cost in self.stages}, max(self.stages, key=lambda cost: cost.ms)
        seconds = self.once_seconds + self.validation_seconds
        for stage in stages:
            cost, steps = costs.get(stage.name, slowest), stage.schedule.steps
            seconds += (steps * cost.ms + cost.first_ms) / 1e3
            seconds += -(-steps // stage.validate_every) * self.validation_seconds
        return seconds

    def most_steps(self, run: OpenRun, seconds: float) -> int:
        spec, is_fitted = run.spec, run.student.is_computed

        def forecast(steps: int) -> float:
            preset = spec.preset.with_steps(steps)
            return self.seconds(preset.stages(run.methods, spec.execution_mode, is_fitted=is_fitted))

        return bisect_right(range(1, MOST_STEPS), seconds, key=forecast)


def stage_costs(run: OpenRun, batches: Batches, context: Context, timed: int = 1) -> tuple[StageCost, ...]:
    """The cost of a step of each stage, on copies of the networks; `timed` steps are timed in each."""
    stages = run.stages()
    with ExitStack() as counting:
        total = len(stages) * (timed + 2)
        meter = _Meter(run.device, timed, lambda done: context.progress("trying steps", done, total), counting)
        take_steps(run, timed + 2, meter, context, batches)
    return tuple(
        StageCost(stage.name, stage.schedule.steps, 1e3 * seconds, macs, 1e3 * max(0.0, first - seconds))
        for stage, first, seconds, macs in zip(stages, meter.firsts, meter.seconds, meter.macs, strict=True)
    )


def try_run(run: OpenRun, context: Context, budget: float | None = None) -> RunCost:
    """The cost of the run. Within a budget in seconds its fit and its teacher cache are made, and more steps timed."""
    if ComputeDevice(run.device).is_cpu:
        keep_freed_memory()
    began = time.perf_counter()
    teacher, batches, once = run.place_teacher(), build_batches(run, context), 0.0
    if run.cache is not None and teacher is not None:
        labels, once = run.cache.rehearse(teacher)
        if budget is not None:
            _require_time(once, budget, "the teacher cache")
            labels, once = run.cache.fill(teacher, context), 0.0
        batches = run.cache.attach(labels, batches, context.note)
    if budget is not None and teacher is not None and run.student.start.init == "fit":
        solve(run, teacher, context)
    _ = run.validation.reference  # computed once for all validations
    stages = stage_costs(run, batches, context)
    if budget is not None:
        left = budget - (time.perf_counter() - began)
        timed = min(MOST_TIMED, int(1e3 * TIMED_SHARE * left / sum(stage.ms for stage in stages)))
        if timed > 1:
            firsts = [stage.first_ms for stage in stages]
            stages = stage_costs(run, batches, context, timed)
            stages = tuple(replace(stage, first_ms=ms) for stage, ms in zip(stages, firsts, strict=True))
    once += blend_seconds(run, batches, teacher, context)
    began = time.perf_counter()
    run.validation.score_sets(run.student.network.to(run.device).eval())
    ComputeDevice(run.device).synchronise()
    return RunCost(stages, time.perf_counter() - began, once)


def decide_for_minutes(options: CompressOptions, context: Context) -> RunSpec:
    """The decided run with as many steps as it has time for, from now on to its last line."""
    if Rank.from_environment().world_size > 1:
        raise UsageError("--minutes measures one process: start it without torchrun, or give --steps")
    training, began = options.training, time.monotonic()
    assert training.minutes is not None
    budget, said = 60 * training.minutes, set[str]()

    def note(line: str) -> None:
        if line not in said:
            said.add(line)
            context.note(line)

    once = replace(context, note=note)
    spec = decide(replace(options, training=replace(training, minutes=None)), once)
    rounds = 0
    while True:
        opening = time.monotonic()
        run = open_run(spec, once)
        opening = time.monotonic() - opening
        cost = try_run(run, once, budget - (time.monotonic() - began))
        cost = replace(cost, once_seconds=cost.once_seconds + opening)
        left = budget - (time.monotonic() - began)
        steps = cost.most_steps(run, left)
        if not steps:
            _require_time(
                cost.seconds(()) + sum(stage.ms + stage.first_ms for stage in cost.stages) / 1e3, left, "a step"
            )
            steps = 1
        decided = decide(replace(options, training=replace(training, minutes=None, steps=steps)), once)
        rounds += 1
        if rounds == ROUNDS or _mode(decided) == _mode(spec):
            break
        spec = decided
    each = ", ".join(f"{stage.ms:.0f} ms" for stage in cost.stages)
    note(f"--minutes {training.minutes:g}: {steps:,} steps of {each} in the {format_duration(left)} that are left")
    return decided


def _mode(spec: RunSpec) -> tuple[object, ...]:
    mode = spec.execution_mode
    return mode.precision, mode.teacher_precision, mode.layout, mode.compiled


def _require_time(needed: float, left: float, what: str) -> None:
    if needed >= left:
        raise UsageError(
            f"--minutes: {format_duration(max(0.0, left))} are left before the first step, and {what} takes about "
            f"{format_duration(needed)}: give more minutes"
        )


@dataclass
class _Meter(Events):
    """Events that time steps of each stage, and count the multiply-accumulates of its last one in `counting`."""

    device: torch.device
    timed: int
    progress: Callable[[int], None]
    counting: ExitStack
    firsts: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    macs: list[int] = field(default_factory=list)
    began: float = field(default_factory=time.perf_counter)
    counter: FlopCounterMode = field(default_factory=partial(FlopCounterMode, display=False))

    def after_step(self, done: int, state: State) -> None:
        ComputeDevice(self.device).synchronise()
        self.progress(done)
        number, now = (done - 1) % (self.timed + 2), time.perf_counter()
        if number == 0:
            self.firsts.append(now - self.began)
            self.began = time.perf_counter()
        elif number == self.timed:
            self.seconds.append((now - self.began) / self.timed)
            self.counter = self.counting.enter_context(FlopCounterMode(display=False))
        elif number > self.timed:
            self.counting.close()
            self.macs.append(self.counter.get_total_flops() // 2)
            self.began = time.perf_counter()

    def how_to_continue(self) -> str:
        return "these were steps to try, and a run would stop here too"
