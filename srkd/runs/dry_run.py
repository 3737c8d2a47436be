"""`srkd compress --dry-run`: all that a run decides, and one real step of each of its stages, writing nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from compressor.base.compute_device import ComputeDevice
from compressor.base.context import Context, format_duration, no_note
from compressor.base.errors import UsageError
from compressor.base.machine import count_threads, peak_resident_bytes, torch_threads
from compressor.base.processes import Rank
from compressor.models.networks.base import ImageModel
from compressor.models.networks.cost import cost
from srkd.options.compress import CompressOptions
from srkd.record.run_file import RunFile
from srkd.record.run_spec import RunSpec
from srkd.runs.compression import begin
from srkd.runs.opened import open_run
from srkd.runs.trial_steps import StageCost, try_run

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
        spec, rule, data, copied = self.spec, self.spec.preset.schedule, self.spec.data, self.spec.start.init_from
        rows = [
            ("recipe", f"{spec.recipe}: {spec.preset.title}"),
            ("teacher", "none" if self.teacher is None else self.teacher.line()),
            ("student", f"{self.student.line()}, {copied.path if copied else INIT_TEXT[spec.start.init]}"),
            ("batch", f"{rule.batch} patches of {rule.lr_patch}x{rule.lr_patch}; labels: {data.labels}"),
            ("images", f"{data.origin}: {data.used} for training; each validation scores {len(data.validation)}"),
            *((f"stage {stage.name}", stage.line()) for stage in self.stages),
            ("run", f"about {format_duration(self.seconds)} {self.where}, validations included"),
            ("peak", f"{self.peak_memory_mb:.0f} MB"),
        ]
        if spec.start.init == "fit":
            rows.append(("note", "the student is solved for before its first step; that is not timed here"))
        if self.runs > 1:
            rows.append(("note", f"this is the first of {self.runs} runs"))
        return rows + [(label, point.line()) for label, point in self.points.items()]

    def line(self) -> str:
        params = "unknown" if self.student.params is None else f"{self.student.params:,}"
        return f"{params} params, about {format_duration(self.seconds)}, {self.peak_memory_mb:.0f} MB"


def dry_run(options: CompressOptions, context: Context) -> DryRun:
    """Decide a run, or the first run of each point of a plan, and take one real step of each stage."""
    if Rank.from_environment().world_size > 1:
        raise UsageError("--dry-run reports on one process: start it without torchrun")
    contents = begin(options, context)
    reports = {
        label: _measure(spec, context if number == 0 else replace(context, note=no_note))
        for number, (label, spec) in enumerate(_specs_of(contents).items())
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
        cost = try_run(run, context)
    device = ComputeDevice(run.device)
    peak = device.peak_memory() or peak_resident_bytes()
    return DryRun(
        spec=spec,
        teacher=None if run.teacher is None else NetworkSummary.of(run.teacher),
        student=NetworkSummary.of(run.student.network),
        stages=cost.stages,
        validation_seconds=cost.validation_seconds,
        seconds=cost.seconds(run.stages()),
        peak_memory_mb=peak / 1e6,
        where=f"on {count_threads(spec.threads)}" if device.is_cpu else f"on {run.device}",
    )
