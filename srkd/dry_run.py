"""`srkd compress --dry-run`: what a run would be, without one; nothing is written.

An estimate comes from shapes alone. A measurement prepares the data and takes the run's own steps, in memory.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

from compressor.base.context import Note, Progress, no_note, no_progress
from compressor.base.errors import UsageError
from compressor.base.machine import peak_resident_bytes
from compressor.base.precision import synchronise
from compressor.base.rank import Rank
from compressor.data.batches import Batches
from compressor.data.prepare import Found, find_images
from compressor.data.store import placed
from compressor.models.cost import cost
from compressor.models.networks.base import Network
from compressor.teachers.teacher import Teacher
from compressor.training.events import mean_psnr_y
from compressor.training.footprint import Batched, Footprint, footprint
from compressor.training.loop import train
from compressor.training.losses import Losses
from compressor.training.state import State
from recipes.catalogue import teacher_needs
from recipes.config.reading import recipe_label
from srkd.compression import Decided, Networks, choose_networks, decide, device_of
from srkd.phi_choice import choose_phi
from srkd.request import Request

DryRunKind = Literal["estimate", "measure"]
WARM_UP_STEPS, TIMED_STEPS = 3, 20
INIT = {"inherit": "cut from the teacher", "random": "random weights"}
SHAPE = ("scale", "width", "depth", "depths", "groups")
"""Of a spec, what a line has room for; --json has all."""


def duration(seconds: float) -> str:
    """As a person plans with it."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


@dataclass(frozen=True)
class Model:
    """A network of the run; `params` and `macs` (at 256x256) are None where a foreign file does not show them."""

    architecture: str
    spec: Mapping[str, Any] | None
    params: int | None
    macs: int | None
    file: str | None = None

    def line(self) -> str:
        params = "unknown" if self.params is None else f"{self.params:,}"
        macs = "unknown" if self.macs is None else f"{self.macs / 1e9:.2f} G"
        file = "" if self.file is None else f", {self.file}"
        shape = ", ".join(f"{name}={value}" for name, value in (self.spec or {}).items() if name in SHAPE)
        return f"{self.architecture} {shape}: {params} params, {macs} MACs at 256x256{file}"


@dataclass(frozen=True)
class Measured:
    """Of the run's own steps on this machine, after a few to warm up."""

    steps: int
    ms_per_step: float
    ms_median: float
    steps_per_second: float
    validation_seconds: float
    run_seconds: float
    """All steps, and the student's validations."""
    peak_memory_mb: float
    """Of the whole process; on a GPU of its tensors there."""
    pace: str

    def rows(self) -> list[tuple[str, str]]:
        spread = f"median {self.ms_median:.1f} ms of {self.steps}"
        return [
            ("measured", f"{self.ms_per_step:.1f} ms a step ({spread}), {self.steps_per_second:.2f} steps/s"),
            ("run", f"about {duration(self.run_seconds)}, validations of {self.validation_seconds:.1f} s included"),
            ("peak", f"{self.peak_memory_mb:.0f} MB"),
        ]


@dataclass(frozen=True)
class DryRun:
    """What a run would be."""

    dry_run: DryRunKind
    recipe: str
    title: str
    teacher: Model | None
    student: Model
    init: str
    speedup_expected: float | None
    """MACs of the teacher over those of the student: an expectation, nothing was timed."""
    steps: int
    batch: int
    lr_patch: int
    data: Found
    needs: tuple[str, ...]
    """What the run asks of the teacher."""
    step: Footprint | None
    notes: tuple[str, ...]
    measured: Measured | None = None

    def rows(self) -> list[tuple[str, str]]:
        """As a person reads it."""
        rows = [("recipe", f"{self.recipe}: {self.title}")]
        rows.append(("teacher", "none" if self.teacher is None else self.teacher.line()))
        rows.append(("student", f"{self.student.line()}, {INIT[self.init]}"))
        if self.speedup_expected is not None:
            rows.append(("speed-up", f"{self.speedup_expected:.2f}x to expect by MACs; nothing was timed"))
        rows.append(("needs", f"of the teacher: {', '.join(self.needs)}" if self.needs else "no teacher"))
        if self.step is not None:
            forwards = f"{self.step.student_forwards} of the student, {self.step.teacher_forwards} of the teacher"
            rows += [("forwards", f"a step: {forwards}"), ("memory", self.step.memory.line())]
        patches = f"{self.batch} patches of {self.lr_patch}x{self.lr_patch}"
        rows.append(("steps", f"{self.steps:,} of {patches}, {self.steps * self.batch:,} patches in all"))
        images = f"{self.data.training} images found, {self.data.validation} for validation"
        rows.append(("data", f"{self.data.origin}: {images}; labels: {self.data.labels}"))
        rows += [("note", note) for note in self.notes]
        return rows + (self.measured.rows() if self.measured else [])


def dry_run(
    request: Request, kind: DryRunKind = "estimate", *, progress: Progress = no_progress, announce: Note = no_note
) -> DryRun:
    """Decide everything that the run would decide; `measure` also takes a few steps of it."""
    if Rank.here().world > 1:
        raise UsageError("--dry-run tells of one process: start it without torchrun")
    if kind == "measure":
        decided = decide(request, progress, announce, choose_phi(request, announce, progress=progress))
        methods = decided.methods
        needed = any(teacher_needs(method) != "nothing" for method in methods) or request.lr_only is not None
        networks = Networks(decided.preset, methods, decided.teacher, decided.pupil, needed)
        report = estimate(request, networks)
        return dataclasses.replace(report, dry_run="measure", measured=measure(decided, progress, announce))
    device_of(request.device)
    return estimate(request, choose_networks(request, announce, choose_phi(request, announce, download=False)))


def estimate(request: Request, networks: Networks) -> DryRun:
    """From shapes, names of files and counts."""
    preset, teacher, pupil = networks.preset, networks.teacher, networks.pupil
    rule, found = preset.schedule, find_images(request.images(), scale=pupil.network.spec.scale)
    stage = preset.stage(networks.methods)
    step, notes = None, []
    try:
        batched = Batched(rule.batch, rule.lr_patch, labels=found.labels == "HR")
        step = footprint(stage, pupil.network.spec, teacher if networks.needed else None, batched)
    except (RuntimeError, NotImplementedError, TypeError) as error:
        names = ", ".join(method.name for method in networks.methods)
        told = str(error).strip().splitlines()[0]
        notes.append(f"forwards and memory are not known: {names} cannot run on shapes alone ({told})")
    if request.teacher_cache:
        notes.append("counted and timed without --teacher-cache")
    if rule.precision != "fp32":
        notes.append("memory is that of fp32; in bf16 activations take about half")
    if teacher is not None and teacher.network is None:
        notes.append(f"memory is without that of the {teacher.backend} teacher, which is not known")
    original = None if teacher is None else _teacher(teacher)
    small = _own(pupil.network)
    ratio = None
    if original is not None and original.macs is not None and small.macs:
        ratio = original.macs / small.macs
    return DryRun(
        dry_run="estimate",
        recipe=recipe_label(request.recipe),
        title=preset.title,
        teacher=original,
        student=small,
        init=pupil.init,
        speedup_expected=ratio,
        steps=rule.steps,
        batch=rule.batch,
        lr_patch=rule.lr_patch,
        data=found,
        needs=_needs(networks, step),
        step=step,
        notes=tuple(notes),
    )


def _needs(networks: Networks, step: Footprint | None) -> tuple[str, ...]:
    """As the methods were seen to ask; where they could not be run, as they say."""
    needs = []
    if step is not None:
        needs += ["outputs"] if step.teacher_forwards else []
        needs += [f"features {', '.join(step.taps)}"] if step.taps else []
    elif networks.needed:
        needs.append("outputs")
    if networks.pupil.init == "inherit":
        needs.append("weights (the student is cut from it)")
    elif any(teacher_needs(method) == "network" for method in networks.methods) and not (step and step.taps):
        needs.append("weights or features")
    return tuple(needs)


def _own(network: Network) -> Model:
    counted = cost(network.spec)
    return Model(network.spec.arch, network.spec.to_dict(), counted.params, counted.macs)


def _teacher(teacher: Teacher) -> Model:
    file = None if teacher.origin is None else str(teacher.origin.path)
    if teacher.network is None:
        return Model(teacher.architecture, None, teacher.params, None, file)
    return dataclasses.replace(_own(teacher.network), file=file)


class _Clock:
    """Events that only note when each step ended; the guard has fetched its loss, so the device is done."""

    def __init__(self, progress: Progress, steps: int) -> None:
        self.progress, self.steps = progress, steps
        self.times: list[float] = []

    def stepped(self, done: int, rate: float, losses: Losses) -> None:
        self.times.append(time.perf_counter())
        self.progress("timing steps", done, self.steps)

    def skipped(self, done: int, skipped: object) -> None:
        self.times.append(time.perf_counter())

    def way_on(self) -> str:
        return "this was a dry run, and a run would stop here too"

    def note(self, line: str) -> None:
        pass

    def due(self, done: int, state: State) -> None:
        pass


def measure(decided: Decided, progress: Progress, announce: Note) -> Measured:
    """Train for a few steps as the run would, and validate once."""
    rule, device, total = decided.preset.schedule, decided.device, WARM_UP_STEPS + TIMED_STEPS
    stages = decided.preset.stages(decided.methods, decided.pace)
    stage, steps = stages[-1], sum(one.schedule.steps for one in stages)
    short = dataclasses.replace(stage, schedule=dataclasses.replace(stage.schedule, steps=total))
    teacher = None if decided.teacher is None else decided.teacher.move_to(device)
    own = None if teacher is None else teacher.network
    student = decided.pupil.network.to(device).to(memory_format=decided.pace.memory_format)  # type: ignore[call-overload]
    state = State.fresh(student, own, short, decided.seed)
    store = placed(decided.data.train, device, announce)
    batches = Batches.over(store, batch=rule.batch, lr_patch=rule.lr_patch, seed=decided.seed, device=device)
    clock = _Clock(progress, total)
    train(short, state, batches, teacher, clock, seed=decided.seed)
    seconds = [after - before for before, after in zip(clock.times, clock.times[1:], strict=False)][-TIMED_STEPS:]
    mean = statistics.fmean(seconds)
    begun = time.perf_counter()
    mean_psnr_y(state.averaged(), decided.data.validation, student.spec.scale)
    synchronise(device)
    validation = time.perf_counter() - begun
    validations = -(-rule.steps // stage.validate_every)
    return Measured(
        steps=len(seconds),
        ms_per_step=mean * 1e3,
        ms_median=statistics.median(seconds) * 1e3,
        steps_per_second=1 / mean,
        validation_seconds=validation,
        run_seconds=steps * mean + validations * validation,
        peak_memory_mb=_peak_mb(device),
        pace=decided.pace.line(rule.lr_patch),
    )


def _peak_mb(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    return peak_resident_bytes() / 1e6
