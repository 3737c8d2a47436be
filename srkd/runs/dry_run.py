"""`srkd compress --dry-run`: everything that a run decides, and one real step of each of its stages, writing nothing.

Each stage takes three steps: one to warm up, one that is timed, and one in which torch counts the operations.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from compressor.base.context import Context, no_note
from compressor.base.durations import format_duration
from compressor.base.errors import UsageError
from compressor.base.machine import count_threads, peak_resident_bytes, torch_threads
from compressor.base.precision import synchronise
from compressor.base.processes import Rank
from compressor.models.networks.base import ImageModel
from compressor.models.networks.cost import cost
from compressor.training.loop import Events, Trainer
from compressor.training.state import State
from srkd.options.compress import CompressOptions
from srkd.record.run_file import RunFile
from srkd.record.run_spec import RunSpec
from srkd.runs.compression import begin
from srkd.runs.opened import open_run
from srkd.runs.run import build_batches

WARM_UP, TIMED, COUNTED = 1, 2, 3
"""The steps of each stage."""
INIT_TEXT = {"fit": "solved for", "inherit": "cut from the teacher", "random": "random weights"}


@dataclass(frozen=True)
class NetworkSummary:
    """A network of the run; `params` and `macs` (at 256x256) are None if a foreign file does not show them."""

    architecture: str
    spec: Mapping[str, Any] | None
    params: int | None
    macs: int | None

    @classmethod
    def of(cls, model: ImageModel) -> NetworkSummary:
        if model.network is None:
            return cls(model.architecture, None, model.params, None)
        spec, counts = model.network.spec, cost(model)
        return cls(spec.arch, spec.to_dict(), counts.params, counts.macs)

    def line(self) -> str:
        params = "unknown" if self.params is None else f"{self.params:,}"
        macs = "unknown" if self.macs is None else f"{self.macs / 1e9:.2f} G"
        return f"{self.architecture}: {params} params, {macs} MACs at 256x256"


@dataclass(frozen=True)
class StageCost:
    """One step of a stage, and how many of them the run takes."""

    name: str
    steps: int
    ms: float
    macs: int
    """Multiply-accumulates of the step as torch counts them, backward passes included."""

    def line(self) -> str:
        return f"{self.steps:,} steps, {self.ms:.0f} ms and {self.macs / 1e9:.1f} GMAC each"


@dataclass(frozen=True)
class DryRun:
    """The report of a dry run: the spec, and what its steps cost here."""

    spec: RunSpec
    teacher: NetworkSummary | None
    student: NetworkSummary
    stages: tuple[StageCost, ...]
    validation_seconds: float
    seconds: float
    """Of all steps and validations."""
    peak_memory_mb: float
    """Of the whole process, or on a GPU of the tensors there."""
    where: str
    runs: int = 1
    """The runs of the plan, of which this is one."""
    points: Mapping[str, DryRun] = field(default_factory=dict)
    """The reports of the points of a sweep by their labels; the first one is also this report."""

    def rows(self) -> list[tuple[str, str]]:
        spec, rule, data = self.spec, self.spec.preset.schedule, self.spec.data
        rows = [
            ("recipe", f"{spec.recipe}: {spec.preset.title}"),
            ("teacher", "none" if self.teacher is None else self.teacher.line()),
            ("student", f"{self.student.line()}, {INIT_TEXT[spec.start.init]}"),
            ("batch", f"{rule.batch} patches of {rule.lr_patch}x{rule.lr_patch}; labels: {data.labels}"),
            ("images", f"{data.origin}: {data.used} for training, {len(data.validation)} for validation"),
            *((f"stage {stage.name}", stage.line()) for stage in self.stages),
            ("run", f"about {format_duration(self.seconds)} {self.where}, validations included"),
            ("peak", f"{self.peak_memory_mb:.0f} MB"),
        ]
        if spec.start.init == "fit":
            rows.append(("note", "the student is solved for before its first step; that is not timed here"))
        if self.runs > 1:
            rows.append(("note", f"the plan has {self.runs} such runs"))
        if self.points:
            rows += [(label, f"{point.line()}") for label, point in self.points.items()]
        return rows

    def line(self) -> str:
        params = "unknown" if self.student.params is None else f"{self.student.params:,}"
        return f"{params} params, about {format_duration(self.seconds)}, {self.peak_memory_mb:.0f} MB"


def dry_run(options: CompressOptions, context: Context) -> DryRun:
    """Decide a run, or the first run of each point of a plan, and take one real step of each stage."""
    if Rank.from_environment().world_size > 1:
        raise UsageError("--dry-run reports on one process: start it without torchrun")
    contents = begin(options, context)
    specs = _specs_of(contents)
    reports = {
        label: _measure(spec, context if number == 0 else replace(context, note=no_note))
        for number, (label, spec) in enumerate(specs.items())
    }
    first = next(iter(reports.values()))
    runs = max(1, len(contents.run_names))
    return replace(first, runs=runs, points=reports if len(reports) > 1 else {})


def _specs_of(contents: RunFile) -> dict[str, RunSpec]:
    """The specs to report on: that of a single run, or the first one of each point."""
    if contents.trials is None:
        return {contents.recipe: contents.spec}
    points = contents.trials.baselines or {contents.trials.runs[0].variant: ()}
    firsts = {run.variant: run.spec for run in reversed(contents.trials.runs) if run.spec is not None}
    return {label: firsts[label] for label in points}


def _measure(spec: RunSpec, context: Context) -> DryRun:
    """Open a run, and take a few steps of each stage in memory."""
    with torch_threads(spec.threads):
        run = open_run(spec, context)
        stages = run.stages()
        short = [replace(stage, schedule=replace(stage.schedule, steps=COUNTED)) for stage in stages]
        teacher = run.place_teacher()
        network = None if teacher is None else teacher.network
        state = State.fresh(run.student.network.to(run.device), network, short[0], spec.seed)
        with ExitStack() as counting:
            progress = partial(context.progress, "trying steps")
            meter = _Meter(run.device, len(short), progress, counting)
            Trainer(short, state, build_batches(run, context), teacher, meter, seed=spec.seed, context=context).run()
        started = time.perf_counter()
        run.validation.score_sets(state.averaged_network())
        synchronise(run.device)
        validation = time.perf_counter() - started
    costs = tuple(
        StageCost(stage.name, stage.schedule.steps, seconds * 1e3, macs)
        for stage, seconds, macs in zip(stages, meter.seconds, meter.macs, strict=True)
    )
    validations = sum(-(-stage.schedule.steps // stage.validate_every) for stage in stages)
    peak = torch.cuda.max_memory_allocated(run.device) if run.device.type == "cuda" else peak_resident_bytes()
    return DryRun(
        spec=spec,
        teacher=None if run.teacher is None else NetworkSummary.of(run.teacher),
        student=NetworkSummary.of(run.student.network),
        stages=costs,
        validation_seconds=validation,
        seconds=sum(stage.steps * stage.ms / 1e3 for stage in costs) + validations * validation,
        peak_memory_mb=peak / 1e6,
        where=f"on {count_threads(spec.threads)}" if run.device.type == "cpu" else f"on {run.device}",
    )


class _Meter(Events):
    """Events that time the second step of each stage, and count the multiply-accumulates of the third in `counting`."""

    def __init__(
        self, device: torch.device, stages: int, progress: Callable[[int, int], None], counting: ExitStack
    ) -> None:
        self.counting = counting
        self.device, self.steps, self.progress = device, COUNTED * stages, progress
        self.seconds: list[float] = []
        self.macs: list[int] = []
        self.began = 0.0
        self.counter = FlopCounterMode(display=False)

    def after_step(self, done: int, state: State) -> None:
        synchronise(self.device)
        self.progress(done, self.steps)
        number = (done - 1) % COUNTED + 1
        if number == WARM_UP:
            self.began = time.perf_counter()
        elif number == TIMED:
            self.seconds.append(time.perf_counter() - self.began)
            self.counter = self.counting.enter_context(FlopCounterMode(display=False))
        else:
            self.counting.close()
            self.macs.append(self.counter.get_total_flops() // 2)

    def how_to_continue(self) -> str:
        return "this was a dry run, and a run would stop here too"
