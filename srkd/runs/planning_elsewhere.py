"""Plans for another device: `--emit` writes shapes and a runner, and `--measured` plans from its timings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from compressor.base.context import Context
from compressor.base.errors import UsageError
from compressor.models.networks.base import ImageModel
from compressor.teachers.teacher import Teacher
from export.plan.candidates import spread_out
from export.plan.emit import emit, read_measured
from export.plan.search import Targets
from srkd.options.compress import MeasurementOptions, PlanOptions
from srkd.options.shared import path_of
from srkd.options.values import format_size
from srkd.runs.planning import Planning, PlanReport, picture_of, targets_of


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


def write_shapes(options: PlanOptions, teacher: ImageModel, folder: Path, context: Context) -> PlanFiles:
    if options.picture is not None:
        raise UsageError(f"--out {options.picture}: --emit plans nothing yet; give it with --measured")
    planning = Planning.here(options, teacher, options.measurement.threads, context)
    targets, environment = planning.targets, planning.environment
    shapes = spread_out(planning.shapes, targets)
    channels = teacher.descriptor.channels
    emitted = emit(shapes, targets, environment, identity_of(teacher), channels, folder, context)
    return PlanFiles(
        folder=folder,
        id=emitted.id,
        files=tuple(sorted(path.name for path in folder.iterdir())),
        shapes=len(emitted.shapes),
        lr_size=format_size(environment.lr_size),
        precision=environment.precision,
        targets=targets,
        failed=emitted.failed,
    )


def plan_from(file: Path, options: PlanOptions, teacher: ImageModel, context: Context) -> PlanReport:
    """Plan from the timings of another device; without a target, for those of `--emit`."""
    measurement, usual, target = options.measurement, MeasurementOptions(), options.target
    for name in ("device", "threads", "seconds"):
        if getattr(measurement, name) != getattr(usual, name):
            raise UsageError(f"--{name}: --measured {file} has the times: leave it out")
    picture = picture_of(options)
    emitted, timings = read_measured(file, path_of(measurement.emit), identity_of(teacher))
    for name in ("runtime", "precision", "lr_size"):
        wanted, there = getattr(target, name), getattr(emitted.environment, name)
        if wanted is not None and wanted != there:
            shown = ["x".join(map(str, value)) if isinstance(value, tuple) else value for value in (wanted, there)]
            flag = f"--{name.replace('_', '-')}"
            raise UsageError(f"{flag} {shown[0]}: {file} has times for {shown[1]}: leave it out, or emit anew")
    environment = replace(emitted.environment, device=timings.provider, threads=timings.threads or None)
    shapes = [entry.shape for entry in emitted.shapes.values()]
    targets = targets_of(target) if target.is_given else emitted.targets
    planning = Planning(options, teacher, targets, environment, shapes, context)
    result = planning.search(lambda shape: timings.measurement(emitted.shapes[shape.name]))
    return planning.report(result, timings.machine, picture)


def identity_of(teacher: ImageModel) -> str:
    """The hash that identifies the teacher in plan.json."""
    if teacher.network is not None:
        return teacher.network.fingerprint()
    origin = teacher.origin if isinstance(teacher, Teacher) else None
    return teacher.architecture if origin is None else origin.sha256
