"""`srkd compress --dry-run`: a report on a run that writes nothing.

An estimate uses shapes alone. A measurement prepares the data and executes some of the run's steps in memory.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from compressor.base.choices import Goal, Precision
from compressor.base.context import QUIET, Context, Progress, no_note
from compressor.base.durations import describe_duration, format_duration
from compressor.base.errors import UsageError
from compressor.base.machine import peak_resident_bytes
from compressor.base.precision import synchronise
from compressor.base.processes import Rank
from compressor.data.prepare import ImageCounts, count_images, require_patches
from compressor.models.networks.base import ImageModel
from compressor.models.networks.cost import cost
from compressor.teachers.teacher import TeacherOrigin
from compressor.training.footprint import Footprint
from compressor.training.loop import Trainer
from compressor.training.losses import Losses
from compressor.training.pace import describe_device
from compressor.training.speed import choose_execution_mode, measure_macs_per_second
from compressor.training.state import State
from compressor.training.trackers import require_trackers
from recipes.catalogue import teacher_needs
from srkd.options.compress import CompressOptions
from srkd.options.sweep import points
from srkd.runs.compression import refuse_side_by_side
from srkd.runs.config import (
    RunConfig,
    RunNetworks,
    UnknownCost,
    data_choice,
    open_device,
    require_tracked_images,
)
from srkd.runs.run import build_batches, place_teacher
from srkd.runs.trials import baselines

DryRunKind = Literal["estimate", "measure"]
WARM_UP_STEPS, TIMED_STEPS = 3, 20
NEEDS_TEXT = {"fit": "solved for with them", "inherit": "cut from it"}
INIT_TEXT = {"fit": "solved for", "inherit": "cut from the teacher", "random": "random weights"}
SHAPE_FIELDS = ("scale", "width", "depth", "depths", "groups")
"""The fields of a spec that a line shows; --json shows all."""


@dataclass(frozen=True)
class NetworkSummary:
    """A network of the run; `params` and `macs` (at 256x256) are None if a foreign file does not show them."""

    architecture: str
    spec: Mapping[str, Any] | None
    params: int | None
    macs: int | None
    file: str | None = None

    def line(self) -> str:
        params = "unknown" if self.params is None else f"{self.params:,}"
        macs = "unknown" if self.macs is None else f"{self.macs / 1e9:.2f} G"
        file = "" if self.file is None else f", {self.file}"
        fields = ", ".join(f"{name}={value}" for name, value in (self.spec or {}).items() if name in SHAPE_FIELDS)
        shape = f" {fields}" if fields else " network"
        return f"{self.architecture}{shape}: {params} params, {macs} MACs at 256x256{file}"


@dataclass(frozen=True)
class StepTimings:
    """Timings of the run's own steps on this machine, after a few warm-up steps."""

    steps: int
    ms_per_step: float
    ms_median: float
    steps_per_second: float
    validation_seconds: float
    run_seconds: float
    """Seconds for all steps and validations."""
    peak_memory_mb: float
    """Peak memory in MB: of the whole process, or on a GPU of the tensors there."""
    pace: str
    where: str = ""
    """Device of the measurement."""

    def rows(self, run_steps: int) -> list[tuple[str, str]]:
        spread = f"median {self.ms_median:.1f} ms of {self.steps}"
        return [
            ("measured", f"{self.ms_per_step:.1f} ms a step ({spread}), {self.steps_per_second:.2f} steps/s"),
            (
                "run",
                f"{describe_duration(self.run_seconds, run_steps, self.where)}, "
                f"validations of {self.validation_seconds:.1f} s included",
            ),
            ("peak", f"{self.peak_memory_mb:.0f} MB"),
        ]


@dataclass(frozen=True)
class DryRun:
    """The report of a dry run."""

    dry_run: DryRunKind
    recipe: str
    title: str
    teacher: NetworkSummary | None
    student: NetworkSummary
    init: str
    speedup_expected: float | None
    """MACs of the teacher divided by those of the student: expected, not timed."""
    steps: int
    batch: int
    lr_patch: int
    data: ImageCounts
    goal: Goal
    labels: Goal
    needs: tuple[str, ...]
    """Outputs, features or weights that the run needs of its teacher."""
    step: Footprint | None
    """The cost of a step of the last stage."""
    notes: tuple[str, ...]
    seconds: float | None = None
    """Estimated seconds of all steps, by their multiply-accumulates and the student's speed on one patch."""
    where: str = ""
    measured: StepTimings | None = None
    points: Mapping[str, DryRun] = field(default_factory=dict)
    """The reports of the points of a sweep by their labels; the first one is also this report."""

    def point_rows(self) -> list[tuple[str, str]]:
        """A row for each point of a sweep: the cost of a run there."""
        rows = []
        for label, point in self.points.items():
            facts = [
                "params unknown" if point.student.params is None else f"{point.student.params:,} params",
                f"{point.steps:,} steps of {point.batch} patches of {point.lr_patch}x{point.lr_patch}",
            ]
            if point.step is not None:
                facts.append(f"{point.step.macs.total / 1e9:.1f} G MACs a step")
            if point.seconds is not None:
                facts.append(f"about {format_duration(point.seconds)}")
            rows.append((label, ", ".join(facts)))
        return rows

    def rows(self) -> list[tuple[str, str]]:
        """The report as pairs of a name and a text."""
        rows = [
            ("recipe", f"{self.recipe}: {self.title}"),
            ("teacher", "none" if self.teacher is None else self.teacher.line()),
            ("student", f"{self.student.line()}, {INIT_TEXT[self.init]}"),
        ]
        if self.speedup_expected is not None:
            rows.append(("speed-up", f"{self.speedup_expected:.2f}x expected by MACs; nothing was timed"))
        rows.append(("needs", f"of the teacher: {', '.join(self.needs)}" if self.needs else "no teacher"))
        if self.step is not None:
            step, macs = self.step, self.step.macs
            forwards = f"{step.student_forwards} of the student, {step.teacher_forwards} of the teacher"
            forwards += f", {step.helper_forwards} of phi" if step.helper_forwards else ""
            parts = {"the teacher's": macs.frozen, "phi's forwards": macs.helper_forwards}
            shares = ", ".join(f"{name} {count / 1e9:.1f}" for name, count in parts.items() if count)
            rows += [
                ("forwards", f"a step: {forwards}"),
                ("cost", f"{macs.total / 1e9:.1f} G MACs a step, backward included{f' ({shares})' if shares else ''}"),
                ("memory", step.memory.line()),
            ]
        patches = f"{self.batch} patches of {self.lr_patch}x{self.lr_patch}"
        images = f"{self.data.training} images found, {self.data.validation} for validation"
        rows.append(("steps", f"{self.steps:,} of {patches}, {self.steps * self.batch:,} patches in all"))
        if self.seconds is not None and self.measured is None:
            duration = describe_duration(self.seconds, self.steps, self.where)
            rows.append(("time", f"{duration}; by the speed of one patch: --dry-run=measure times whole steps"))
        return [
            *rows,
            ("data", f"{self.data.origin}: {images}; labels: {self.labels}"),
            *(("note", note) for note in self.notes),
            *(self.measured.rows(self.steps) if self.measured else ()),
            *self.point_rows(),
        ]


def dry_run(options: CompressOptions, kind: DryRunKind = "estimate", context: Context = QUIET) -> DryRun:
    """The report of a run with these options; `measure` also times a few steps."""
    if options.training.then is not None:
        raise UsageError("--dry-run reports on one run: leave out --then, and start a second dry run for its recipe")
    if Rank.from_environment().world_size > 1:
        raise UsageError("--dry-run reports on one process: start it without torchrun")
    refuse_side_by_side(options)
    require_trackers(options.run.track)
    first, *others = points(options)
    report, quiet = _report(first.options, kind, context), dataclasses.replace(context, note=no_note)
    if not others:
        return report
    reports = {point.label: _report(point.options, kind, quiet) for point in others}
    return dataclasses.replace(report, points={first.label: report, **reports})


def _report(options: CompressOptions, kind: DryRunKind, context: Context) -> DryRun:
    """The report of one run."""
    if kind == "measure":
        config = RunConfig.decide(options, context)
        _require_possible(config)
        return dataclasses.replace(estimate(config), dry_run="measure", measured=measure(config, context))
    device = open_device(options.run.device)
    networks = RunNetworks.choose(options, context, download=False)
    _require_possible(networks)
    return estimate(networks, device)


def _require_possible(networks: RunNetworks) -> None:
    """Refuse what the run would refuse before its first step, as far as names, shapes and sizes tell it."""
    options, scale, lr_patch = networks.options, networks.student.spec.scale, networks.preset.schedule.lr_patch
    choice = data_choice(options)
    networks.require_used()
    require_patches(choice, scale, lr_patch)
    require_tracked_images(options, count_images(choice, scale=scale).validation)
    if options.run.has_baselines:
        baselines(networks, no_note)


def estimate_seconds(networks: RunNetworks, steps: Sequence[Footprint], device: torch.device) -> float:
    """The seconds of all steps: multiply-accumulates of each stage's step divided by the student's speed on a patch."""
    rule = networks.preset.schedule
    options = dataclasses.replace(networks.speed_options(), compile="off")
    options = dataclasses.replace(options, precision="auto") if options.precision == "measure" else options
    mode = choose_execution_mode(
        networks.student, steps=rule.steps, batch=rule.batch, lr_patch=rule.lr_patch, device=device, options=options
    )
    precisions: set[Precision] = {mode.precision, mode.teacher_precision}
    speeds = {
        precision: measure_macs_per_second(networks.student, rule.lr_patch, device, precision)
        for precision in precisions
    }
    stages, costs = networks.stages(mode), [step.macs for step in steps]
    return sum(
        stage.schedule.steps
        * ((macs.total - macs.frozen) / speeds[mode.precision] + macs.frozen / speeds[mode.teacher_precision])
        for stage, macs in zip(stages, costs, strict=True)
    )


def estimate(networks: RunNetworks, device: torch.device | None = None) -> DryRun:
    """The report from shapes, file names and counts alone; with a device, the seconds of all steps there, too."""
    options, preset, teacher, rule = networks.options, networks.preset, networks.teacher, networks.preset.schedule
    images = count_images(data_choice(options), scale=networks.student.spec.scale)
    steps: tuple[Footprint, ...] = ()
    notes = []
    try:
        steps = networks.step_footprints()
    except UnknownCost as error:
        notes.append(f"forwards and memory are not known: {error}")
    step = steps[-1] if steps else None
    if options.training.teacher_cache:
        notes.append("counted and timed without --teacher-cache")
    if not isinstance(networks, RunConfig) and networks.measures_margin:
        notes.append("counted without the margin that a run may measure for its teacher (--label-margin)")
    if rule.precision != "fp32":
        notes.append("memory is that of fp32; in bf16 activations take about half")
    if teacher is not None and teacher.network is None:
        notes.append(f"memory is without that of the {teacher.backend} teacher, which is not known")
    large = None if teacher is None else _describe(teacher, teacher.origin)
    small = _describe(networks.student)
    ratio = large.macs / small.macs if large is not None and large.macs and small.macs else None
    return DryRun(
        dry_run="estimate",
        recipe=networks.recipe,
        title=preset.title,
        teacher=large,
        student=small,
        init=networks.student_init.init,
        speedup_expected=ratio,
        steps=rule.steps,
        batch=rule.batch,
        lr_patch=rule.lr_patch,
        data=images,
        goal=networks.goal,
        labels=networks.labels,
        needs=_needs(networks, step),
        step=step,
        notes=tuple(notes),
        seconds=estimate_seconds(networks, steps, device) if steps and device is not None else None,
        where="" if device is None else describe_device(device),
    )


def _needs(networks: RunNetworks, step: Footprint | None) -> tuple[str, ...]:
    """The needs that the methods showed in a step; if they could not run, those that they declare."""
    needs = []
    if step is not None:
        needs += ["outputs"] if step.teacher_forwards else []
        needs += [f"features {', '.join(step.taps)}"] if step.taps else []
    elif networks.runs_teacher:
        needs.append("outputs")
    if networks.student_init.init in NEEDS_TEXT and not networks.student_init.is_across:
        needs.append(f"weights (the student is {NEEDS_TEXT[networks.student_init.init]})")
    elif any(teacher_needs(method) == "network" for method in networks.methods) and not (step and step.taps):
        needs.append("weights or features")
    return tuple(needs)


def _describe(model: ImageModel, origin: TeacherOrigin | None = None) -> NetworkSummary:
    file = None if origin is None else str(origin.path)
    if model.network is None:
        return NetworkSummary(model.architecture, None, model.params, None, file)
    spec, counts = model.network.spec, cost(model)
    return NetworkSummary(spec.arch, spec.to_dict(), counts.params, counts.macs, file)


class _Clock:
    """Events that only record when each step ended; the guard has fetched the loss, so the device has finished."""

    def __init__(self, progress: Progress, steps: int) -> None:
        self.progress, self.steps = progress, steps
        self.times: list[float] = []

    def on_step(self, done: int, rate: float, losses: Losses) -> None:
        self.times.append(time.perf_counter())
        self.progress("timing steps", done, self.steps)

    def on_skip(self, done: int, skipped: object) -> None:
        self.times.append(time.perf_counter())

    def how_to_continue(self) -> str:
        return "this was a dry run, and a run would stop here too"

    def note(self, line: str) -> None:
        pass

    def flag(self, done: int, message: str) -> None:
        pass

    def after_step(self, done: int, state: State) -> None:
        pass


def measure(config: RunConfig, context: Context) -> StepTimings:
    """Train for a few steps as the run would, validate once, and return the timings."""
    rule, seed, device = config.preset.schedule, config.options.training.seed, config.device
    stages, timed_steps = config.stages(config.mode), WARM_UP_STEPS + TIMED_STEPS
    stage, steps = stages[-1], sum(stage.schedule.steps for stage in stages)
    short = dataclasses.replace(stage, schedule=dataclasses.replace(stage.schedule, steps=timed_steps))
    teacher = place_teacher(config)
    network = None if teacher is None else teacher.network
    state = State.fresh(config.student.to(config.device), network, short, seed)
    clock = _Clock(context.progress, timed_steps)
    Trainer([short], state, build_batches(config, context), teacher, clock, seed=seed).run()
    seconds = [after - before for before, after in zip(clock.times, clock.times[1:], strict=False)][-TIMED_STEPS:]
    mean = statistics.fmean(seconds)
    started = time.perf_counter()
    config.validation.score_sets(state.averaged_network())
    synchronise(device)
    validation = time.perf_counter() - started
    validations = -(-rule.steps // stage.validate_every)
    on_gpu = device.type == "cuda"
    peak_bytes = torch.cuda.max_memory_allocated(device) if on_gpu else peak_resident_bytes()
    return StepTimings(
        steps=len(seconds),
        ms_per_step=mean * 1e3,
        ms_median=statistics.median(seconds) * 1e3,
        steps_per_second=1 / mean,
        validation_seconds=validation,
        run_seconds=steps * mean + validations * validation,
        peak_memory_mb=peak_bytes / 1e6,
        pace=config.mode.line(rule.lr_patch),
        where=describe_device(device),
    )
