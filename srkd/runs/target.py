"""`srkd compress --target-…`: the plan that chooses the student, and the timing of its file against the target."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from compressor.base.context import Context
from compressor.base.errors import SrkdError, UsageError
from compressor.models.checkpoints.load import load_checkpoint
from compressor.models.networks.cost import cost
from export.formats.conversion import FileOptions
from export.plan.measure import Environment, measure_file
from export.writing.exporting import Source, export_model
from srkd.options.compress import CompressOptions, MeasurementOptions, PlanOptions
from srkd.record.result import TargetReport
from srkd.record.run_spec import RunSpec, StudentPlan
from srkd.runs.planning import PlanReport, run_plan, targets_of
from srkd.runs.recipe import load_recipe
from srkd.runs.teacher import open_teacher
from srkd.terminal.console import json_value

PLAN_SECONDS, SECONDS = 0.5, 10.0
"""Seconds for each measurement of a shape, and for the final one."""


def with_student_for_target(options: CompressOptions, context: Context) -> tuple[CompressOptions, StudentPlan | None]:
    """The options with the student that a plan chose for their target, and that plan; as they are without a target."""
    _refuse_contradictions(options)
    if not options.target.is_given:
        return options, None
    report = context.once("plan", repr(options.teacher), repr(options.target), read=lambda: _search(options, context))
    plan = StudentPlan.model_validate(json_value(report))
    return replace(options, student=replace(options.student, student=report.chosen.student)), plan


def _search(options: CompressOptions, context: Context) -> PlanReport:
    run = options.run
    measurement = MeasurementOptions(device=run.device, threads=run.threads, seconds=PLAN_SECONDS)
    plan = PlanOptions(teacher=options.teacher, target=options.target, measurement=measurement)
    report = run_plan(plan, open_teacher(options.teacher, context), context)
    chosen = report.chosen
    context.note(f"plan: {chosen.name}, {chosen.params:,} parameters, {chosen.ms:.1f} ms; {chosen.why}")
    return report


def _refuse_contradictions(options: CompressOptions) -> None:
    """Refuse a shape together with a target, and options of a target's runtime without a target."""
    if not options.target.is_given:
        for name in ("runtime", "precision", "lr_size"):
            if getattr(options.target, name) is not None:
                flag = f"--{name.replace('_', '-')}"
                raise UsageError(f"{flag} belongs to a target: add --target-fps, --target-ms or another")
        return
    for name in ("student", "width", "depth"):
        shape = getattr(options.student, name)
        if shape is not None:
            raise UsageError(f"--{name} {shape}: the target decides the shape; leave one of them out")
    for setting in options.training.own_settings:
        if setting.startswith(("student.width", "student.depth")):
            raise UsageError(f"--set {setting}: the target decides the shape; leave one of them out")
    slicing = {"--init inherit": options.student.init == "inherit", "--select": options.student.select is not None}
    for flag, is_given in slicing.items():
        if is_given:
            raise UsageError(f"{flag}: the target may choose a student that is no slice of the teacher; leave it out")
    for method in load_recipe(options).build_methods():
        if method.kind == "joint":
            raise UsageError(
                f"{method.name} trains its student inside the teacher, and a target may choose one of another network: "
                "give --width in place of the target, or take csd-lite or logits"
            )
    targets_of(options.target)


def check_target(student: Path, spec: RunSpec, context: Context) -> TargetReport:
    """Export a finished student for the runtime of its target, into its folder, and time that file."""
    plan = spec.plan
    assert plan is not None
    width, height = map(int, plan.lr_size.split("x"))
    environment = Environment(plan.runtime, plan.precision, (width, height), plan.device, plan.threads)
    targets = targets_of(spec.options.target)
    nothing = TargetReport(None, str(targets), str(environment), None)
    try:
        loaded, row = load_checkpoint(student), environment.format()
        file, size = student, student.stat().st_size
        if row is not None:
            source = Source(student.stem, loaded.sha256, loaded.header, student)
            # Some files are of one size, as those of the plan were.
            for options in (FileOptions(), FileOptions(lr_size=environment.lr_size)):
                written = export_model(loaded.network, source, [row.name], student.parent, context, options=options)
                exported = next(report for report in written.files if report.format == row.name)
                if exported.verdict != "unavailable" or "static" not in row.options:
                    break
            if exported.path is None or exported.bytes is None:
                return replace(nothing, reason=exported.reason)
            file, size = exported.path, exported.bytes
        # The folder of the run holds more under the student's name.
        figures = replace(measure_file(file, environment, seconds=SECONDS), megabytes=size / 1e6)
    except SrkdError as error:
        return replace(nothing, reason=str(error))
    macs = cost(loaded.network.spec, environment.lr_size).macs
    return replace(
        nothing,
        met=targets.excess(figures.ms, figures.megabytes, macs, 0.0) <= 1,
        file=file,
        ms=figures.ms,
        ms_interval=(figures.low, figures.high),
        fps=1000 / figures.ms,
        megabytes=figures.megabytes,
        macs=macs,
    )
