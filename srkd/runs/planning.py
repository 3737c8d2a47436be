"""`srkd plan`: conversion of options to targets, shapes and a measurement for the search in `export.plan`."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from compressor.base.choices import Goal
from compressor.base.context import Context
from compressor.base.errors import SrkdError
from compressor.base.files import atomic_path
from compressor.base.machine import require_threads, torch_threads
from compressor.base.memory import keep_freed_memory
from compressor.images.scores import GOAL_WORDS
from compressor.inference.teacher_check import check_teacher
from compressor.models.networks.base import ImageModel
from compressor.runtimes.base import require_memory_for
from compressor.runtimes.table import RUNTIMES
from export.formats.table import find_format
from export.plan.candidates import list_candidates
from export.plan.measure import ONCE, Bench, Environment
from export.plan.quality import FittedQuality
from export.plan.search import CandidateShape, Measure, Plan, PlanRow, ShapeSearch, Targets, unknown
from export.profile.conditions import observe
from srkd.charts import Scatter, ScatterPoint, draw_scatter
from srkd.options.compress import PlanOptions, TargetOptions
from srkd.options.shared import path_of
from srkd.options.values import format_size, require_png

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


def run_plan(options: PlanOptions, teacher: ImageModel, context: Context) -> PlanReport:
    """Find the largest student that meets all targets in a runtime on this machine; everything is measured."""
    picture, measurement = picture_of(options), options.measurement
    require_threads(measurement.threads)
    with torch_threads(measurement.threads) as threads:
        planning = Planning.here(options, teacher, threads, context)
        keep_freed_memory()  # as every command does, so that the plan's times hold there
        notes, conditions = [], observe()
        context.note(f"{planning}: {len(planning.shapes)} shapes to choose from")
        with tempfile.TemporaryDirectory(prefix="srkd-plan-") as folder:
            bench = Bench(
                planning.environment,
                Path(folder),
                seconds=measurement.seconds,
                longest_ms=ONCE * planning.targets.most_ms,
            )
            result = planning.search(bench.measure)
    if result.stopped:
        notes.append(f"the search stopped after {LOOK_SECONDS:.0f} s: a larger shape may meet the target, too")
    notes += conditions(()).warnings
    if bench.drift >= NOTABLE_DRIFT:
        notes.append(
            f"the machine was at times {bench.drift:.1f} times slower than at others: plan again when it is calm"
        )
    return planning.report(result, "this machine", picture, notes)


def picture_of(options: PlanOptions) -> Path | None:
    picture = path_of(options.picture)
    if picture is not None:
        require_png(picture, "--out")
    return picture


def targets_of(target: TargetOptions) -> Targets:
    return Targets(target.target_fps, target.target_ms, target.target_mb, target.target_macs)


@dataclass(frozen=True)
class Planning:
    """The search for a student of a teacher: the targets, the environment that must meet them, and the shapes."""

    options: PlanOptions
    teacher: ImageModel
    targets: Targets
    environment: Environment
    shapes: Sequence[CandidateShape]
    context: Context
    began: float = field(default_factory=time.monotonic)

    @classmethod
    def here(cls, options: PlanOptions, teacher: ImageModel, threads: int | None, context: Context) -> Planning:
        """A search on this machine, in an environment that is available."""
        target, descriptor, network = options.target, teacher.descriptor, teacher.network
        words = {"runtime": target.runtime, "precision": target.precision, "lr_size": target.lr_size}
        given: dict[str, Any] = {name: value for name, value in words.items() if value is not None}
        environment = Environment(device=options.measurement.device, threads=threads, **given)
        targets = targets_of(target)
        require_memory_for(environment.lr_size, 1, descriptor, "--lr-size")
        environment.format()
        shapes = list_candidates(descriptor, None if network is None else network.spec, environment.lr_size)
        return cls(options, teacher, targets, environment, shapes, context)

    def __str__(self) -> str:
        return f"{self.targets} at {self.environment}"

    @cached_property
    def goal(self) -> Goal:
        """What the finalists are compared by."""
        goal = self.options.teacher.goal
        return check_teacher(self.teacher, context=self.context).goal if goal == "auto" else goal

    def search(self, measure: Measure) -> Plan:
        measurement, context, began = self.options.measurement, self.context, time.monotonic()
        return ShapeSearch(
            self.shapes,
            self.targets,
            measure,
            FittedQuality(self.teacher, context=context) if measurement.quality else unknown,
            goal=self.goal,
            margin=measurement.margin,
            remedies=lambda excess: remedies(excess, self.targets, self.environment),
            enough=lambda share: time.monotonic() - began > share * LOOK_SECONDS,
            context=context,
        ).run()

    def report(self, result: Plan, machine: str, picture: Path | None, notes: Sequence[str] = ()) -> PlanReport:
        network, given = self.teacher.network, self.options.teacher.teacher
        environment, scale = self.environment, self.teacher.descriptor.scale
        if picture is not None:
            with atomic_path(picture) as temporary:
                temporary.write_bytes(draw_scatter(chart_of(str(self), result, self.goal)))
        foreign = f"{self.teacher.backend} x{scale}"
        return PlanReport(
            teacher=foreign if network is None else f"{network.spec.arch} x{scale}, {network.params:,} parameters",
            teacher_path=None if isinstance(given, ImageModel) else path_of(given),
            scale=scale,
            runtime=environment.runtime,
            precision=environment.precision,
            lr_size=format_size(environment.lr_size),
            device=environment.device,
            threads=environment.threads,
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


def remedies(excess: float, targets: Targets, environment: Environment) -> list[str]:
    """Options for a target that the fastest shape misses, as its time is `excess` times too long; the surest first."""
    if math.isinf(targets.most_ms):
        return []
    width, height = (max(8, int(side / math.sqrt(excess)) // 4 * 4) for side in environment.lr_size)
    words = [f"--lr-size {width}x{height}"]
    if environment.precision == "fp32" and _is_there(environment.runtime, "int8"):
        words.append("perhaps --precision int8")
    others = (name for name in RUNTIMES if name != environment.runtime and _is_there(name, environment.precision))
    return [*words, *(f"perhaps --runtime {name}" for name in islice(others, MOST_OTHERS))]


def _is_there(runtime: str, precision: str) -> bool:
    try:
        find_format(runtime, precision)
        return RUNTIMES[runtime].missing_requirement() is None
    except SrkdError:
        return False


def chart_of(title: str, result: Plan, goal: Goal) -> Scatter:
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
        title=title,
        x_label="milliseconds an image",
        y_label="parameters",
        points=tuple(points),
        limit=None if math.isinf(most) else most,
        logarithmic_y=True,
    )
