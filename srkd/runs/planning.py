"""`srkd plan`: conversion of options to targets, shapes and a measurement for the search in `export.plan`."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from compressor.base.choices import Goal
from compressor.base.context import Context
from compressor.base.errors import SrkdError, UsageError
from compressor.base.files import atomic_path
from compressor.base.machine import require_threads, torch_threads
from compressor.base.memory import keep_freed_memory
from compressor.images.scores import GOAL_WORDS
from compressor.inference.teacher_check import check_teacher
from compressor.models.networks.base import ImageModel
from compressor.runtimes.base import require_memory_for
from compressor.runtimes.table import RUNTIMES
from compressor.teachers.teacher import Teacher
from export.formats.table import find_format
from export.plan import candidates as shapes
from export.plan.emit import Emitted, emit, read_measured, spread_out
from export.plan.measure import ONCE, Bench, Environment
from export.plan.quality import FittedQuality
from export.plan.search import CandidateShape, Measure, Plan, PlanRow, Targets, find_student, unknown
from export.profile.conditions import Observation
from srkd.charts.scatter import Scatter, ScatterPoint, draw_scatter
from srkd.options.compress import MeasurementOptions, PlanOptions, TargetOptions
from srkd.options.models import refuse_file_options
from srkd.options.shared import path_of
from srkd.options.values import format_size, require_png
from srkd.runs.teacher import load_given_teacher

LOOK_SECONDS = 90.0
"""Time after which no further shape is tried; finalists are then measured again and fitted."""
NOTABLE_DRIFT = 1.5
"""Factor of variation in the reference's speed from which a note warns."""
MOST_OTHERS = 2
"""Largest number of other runtimes that are suggested if a target cannot be reached."""


@dataclass(frozen=True)
class PlanReport:
    """The chosen student, and all measured shapes, the slowest first."""

    teacher: str
    teacher_path: Path | None
    scale: int
    runtime: str
    precision: str
    lr_size: str
    device: str
    threads: int | None
    targets: Targets
    margin: float
    chosen: PlanRow
    rows: tuple[PlanRow, ...]
    candidates: int
    measured_on: str
    seconds: float
    picture: Path | None
    notes: tuple[str, ...]
    goal: Goal = "original"
    """What finalists that tie were compared by."""


@dataclass(frozen=True)
class PlanFiles:
    """The files that `--emit` wrote, to be timed on another device."""

    folder: Path
    id: str
    files: tuple[str, ...]
    shapes: int
    """Number of shapes with a file."""
    lr_size: str
    precision: str
    targets: Targets
    failed: Mapping[str, str]


def run_plan(options: PlanOptions, context: Context) -> PlanReport | PlanFiles:
    """Find the largest student that meets all targets in a runtime on this machine; everything is measured.

    `emit` writes shapes and a runner for another device instead, and `measured` plans from the timings of that runner.

        >>> srkd.plan("edsr.pt", target_fps=5, lr_size="64x48", seconds=0.1).chosen.student
    """
    measurement = options.measurement
    is_optional = measurement.measured is not None and not options.target.is_given
    targets = None if is_optional else targets_of(options.target)
    picture = path_of(options.picture)
    if picture is not None:
        require_png(picture, "--out")
    if measurement.measured is not None or measurement.emit is not None:
        _require_timed_elsewhere(options)
    teacher = _load_teacher(options, context)
    descriptor, network, planning = teacher.descriptor, teacher.network, Planning(options, teacher, context)
    place = place_of(options, measurement.threads)
    require_memory_for(place.lr_size, 1, descriptor, "--lr-size")
    facts = shapes.TeacherFacts(descriptor.scale, descriptor.channels, None if network is None else network.spec)
    with torch_threads(measurement.threads) as threads:
        if measurement.measured is not None:
            return planning.from_file(Path(measurement.measured), targets)
        assert targets is not None
        place = replace(place, threads=threads)
        place.format()
        candidates = shapes.list_candidates(facts, place.lr_size)
        if measurement.emit is not None:
            chosen, folder = spread_out(candidates, targets), Path(measurement.emit)
            return _files(emit(chosen, targets, place, _identity(teacher), descriptor.channels, folder, context))
        return planning.here(targets, place, candidates)


def _require_timed_elsewhere(options: PlanOptions) -> None:
    """Refuse options of timing here beside times of another device, and a picture where nothing is planned yet."""
    measurement = options.measurement
    if measurement.measured is None:
        if options.picture is not None:
            raise UsageError(f"--out {options.picture}: --emit plans nothing yet; give it with --measured")
        return
    if (flag := _first_changed(measurement, "device", "threads", "seconds")) is not None:
        raise UsageError(f"{flag}: --measured {measurement.measured} has the times: leave it out")


def _first_changed(measurement: MeasurementOptions, *names: str) -> str | None:
    """The flag of the first of some options that is not left as it is."""
    usual = MeasurementOptions()
    changed = (name for name in names if getattr(measurement, name) != getattr(usual, name))
    return next((f"--{'no-quality' if name == 'quality' else name}" for name in changed), None)


def targets_of(target: TargetOptions) -> Targets:
    """The targets of the options; refuse options without any."""
    return Targets(target.target_fps, target.target_ms, target.target_mb, target.target_macs)


def place_of(options: PlanOptions, threads: int | None) -> Environment:
    """Where the student must meet its target."""
    target = options.target
    words = {"runtime": target.runtime, "precision": target.precision, "lr_size": target.lr_size}
    given: dict[str, Any] = {name: value for name, value in words.items() if value is not None}
    return Environment(device=options.measurement.device, threads=threads, **given)


def _load_teacher(options: PlanOptions, context: Context) -> ImageModel:
    given = options.teacher
    if not isinstance(given.teacher, ImageModel):
        return load_given_teacher(given, context.note)
    refuse_file_options(given.scale, given.arch_options)
    return given.teacher


def _identity(teacher: ImageModel) -> str:
    """The hash that identifies the teacher in plan.json."""
    if teacher.network is not None:
        return teacher.network.fingerprint()
    origin = teacher.origin if isinstance(teacher, Teacher) else None
    return teacher.architecture if origin is None else origin.sha256


def _name(teacher: ImageModel) -> str:
    network = teacher.network
    if network is None:
        return f"{teacher.backend} x{teacher.descriptor.scale}"
    return f"{network.spec.arch} x{network.spec.scale}, {network.params:,} parameters"


@dataclass(frozen=True)
class Planning:
    """The search for a student of a teacher, here or from the timings of another device."""

    options: PlanOptions
    teacher: ImageModel
    context: Context
    began: float = field(default_factory=time.monotonic)

    @cached_property
    def goal(self) -> Goal:
        """What the finalists are compared by."""
        goal = self.options.teacher.goal
        return check_teacher(self.teacher).goal if goal == "auto" else goal

    def here(self, targets: Targets, place: Environment, candidates: Sequence[CandidateShape]) -> PlanReport:
        measurement, context = self.options.measurement, self.context
        require_threads(measurement.threads)
        keep_freed_memory()  # as every command does, so that the plan's times hold there
        notes, others = [], Observation()
        context.note(f"{targets} at {place}: {len(candidates)} shapes to choose from")
        with tempfile.TemporaryDirectory(prefix="srkd-plan-") as folder:
            longest = ONCE * targets.most_ms
            bench = Bench(place, Path(folder), seconds=measurement.seconds, longest_ms=longest, context=context)
            result = self.search(targets, place, candidates, bench.measure)
        if result.stopped:
            notes.append(f"the search stopped after {LOOK_SECONDS:.0f} s: a larger shape may meet the target, too")
        notes += others.conditions(()).warnings
        if bench.drift >= NOTABLE_DRIFT:
            notes.append(
                f"the machine was at times {bench.drift:.1f} times slower than at others: plan again when it is calm"
            )
        return self.report(place, result, "this machine", notes)

    def from_file(self, file: Path, targets: Targets | None) -> PlanReport:
        timings = read_measured(file, path_of(self.options.measurement.emit), _identity(self.teacher))
        emitted, target = timings.emitted, self.options.target
        asked = {
            "--runtime": (target.runtime, emitted.place.runtime),
            "--precision": (target.precision, emitted.place.precision),
            "--lr-size": (target.lr_size, emitted.place.lr_size),
        }
        for flag, (wanted, there) in asked.items():
            if wanted is not None and wanted != there:
                shown = ["x".join(map(str, value)) if isinstance(value, tuple) else value for value in (wanted, there)]
                raise UsageError(f"{flag} {shown[0]}: {file} has times for {shown[1]}: leave it out, or emit anew")
        candidates = list(emitted.candidates.values())
        result = self.search(targets or emitted.targets, emitted.place, candidates, timings.measure)
        place = replace(emitted.place, device=timings.provider, threads=timings.threads)
        return self.report(place, result, timings.machine)

    def search(
        self, targets: Targets, place: Environment, candidates: Sequence[CandidateShape], measure: Measure
    ) -> Plan:
        measurement, context, began = self.options.measurement, self.context, time.monotonic()
        return find_student(
            candidates,
            targets,
            measure,
            FittedQuality(self.teacher, context=context) if measurement.quality else unknown,
            goal=self.goal,
            margin=measurement.margin,
            remedies=lambda excess: remedies(excess, targets, place),
            enough=lambda share: time.monotonic() - began > share * LOOK_SECONDS,
            context=context,
        )

    def report(self, place: Environment, result: Plan, machine: str, notes: Sequence[str] = ()) -> PlanReport:
        """The report, and the picture if there is to be one."""
        teacher, given, picture = self.teacher, self.options.teacher.teacher, path_of(self.options.picture)
        if picture is not None:
            with atomic_path(picture) as temporary:
                draw_scatter(chart_of(result, place, self.goal)).save(temporary, format="PNG")
        return PlanReport(
            teacher=_name(teacher),
            teacher_path=None if isinstance(given, ImageModel) else path_of(given),
            scale=teacher.descriptor.scale,
            runtime=place.runtime,
            precision=place.precision,
            lr_size=format_size(place.lr_size),
            device=place.device,
            threads=place.threads,
            targets=result.targets,
            margin=result.margin,
            chosen=result.chosen,
            rows=result.rows,
            candidates=result.candidates,
            measured_on=machine,
            seconds=time.monotonic() - self.began,
            picture=picture,
            notes=tuple(notes),
            goal=self.goal,
        )


def remedies(excess: float, targets: Targets, place: Environment) -> list[str]:
    """Options for a target that the fastest shape misses, as its time is `excess` times too long; the surest first."""
    if math.isinf(targets.most_ms):
        return []
    width, height = (max(8, int(side / math.sqrt(excess)) // 4 * 4) for side in place.lr_size)
    words = [f"--lr-size {width}x{height}"]
    if place.precision == "fp32" and _is_there(place.runtime, "int8"):
        words.append("perhaps --precision int8")
    others = (name for name in RUNTIMES if name != place.runtime and _is_there(name, place.precision))
    return [*words, *(f"perhaps --runtime {name}" for name in islice(others, MOST_OTHERS))]


def _is_there(runtime: str, precision: str) -> bool:
    try:
        find_format(runtime, precision)
        return RUNTIMES[runtime].missing_requirement() is None
    except SrkdError:
        return False


def chart_of(result: Plan, place: Environment, goal: Goal = "original") -> Scatter:
    """The chart of size against speed, with the chosen shape marked and a line at the target."""
    points = []
    for row in result.rows:
        if row.ms is not None:
            judged = row.scores.by(goal)
            quality = "" if judged is None else f", {judged:.2f} dB {GOAL_WORDS[goal]}"
            label = f"{row.kind} {row.width}x{row.depth}{quality}"
            points.append(ScatterPoint(label, row.ms, row.params, row.kind, marked=row is result.chosen))
    most = result.targets.most_ms
    return Scatter(
        title=f"{result.targets} at {place}",
        x_label="milliseconds an image",
        y_label="parameters",
        points=tuple(points),
        limit=None if math.isinf(most) else most,
        logarithmic_y=True,
    )


def _files(emitted: Emitted) -> PlanFiles:
    return PlanFiles(
        folder=emitted.folder,
        id=emitted.id,
        files=tuple(sorted(path.name for path in emitted.folder.iterdir())),
        shapes=len(emitted.candidates),
        lr_size=format_size(emitted.place.lr_size),
        precision=emitted.place.precision,
        targets=emitted.targets,
        failed=emitted.failed,
    )
