"""One training run: references, the loop, and the report of what came out."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from compressor.base.context import Note, Progress
from compressor.base.machine import facts
from compressor.base.processes import Processes, interruption
from compressor.data.batches import Batches
from compressor.data.prepare import Data
from compressor.data.store import placed
from compressor.data.teacher_cache import TeacherCache
from compressor.images.metrics import Protocol
from compressor.models.checkpoints.save import save_network
from compressor.models.cost import Cost, cost
from compressor.models.networks.base import Network
from compressor.teachers.teacher import Teacher
from compressor.training.events import Reference, RunEvents, mean_psnr_y, quantised_sr
from compressor.training.loop import run_stages
from compressor.training.method import Method
from compressor.training.run_folder import RunFolder
from compressor.training.speed import PLAIN_MODE, ExecutionMode
from compressor.training.stage import Stage
from compressor.training.state import State, follow_leader
from demo.sheet import Panel, write_sheet
from recipes.config.preset import Preset
from srkd.console import json_value
from srkd.phi_choice import phi_of
from srkd.student_choice import StudentInit
from srkd.trials_report import TrialsReport

SAME = ("preset", "student", "teacher", "data", "teacher_cache", "phi")
"""Of run.json: what must be the same on every process, and when a run is continued."""


JOINT_TEACHER = "teacher_joint.safetensors"
"""The teacher that was trained with the student inside it: students of other widths can be cut from it."""


@dataclass(frozen=True)
class Quality:
    """Y-PSNR in dB on the validation images, and cost at 256×256 LR pixels."""

    psnr_y: float
    cost: Cost | None


@dataclass(frozen=True)
class CompressReport:
    """What a run came to."""

    run: Path
    student_path: Path
    recipe: str
    steps: int
    seconds: float
    protocol: str
    images_used: int
    images_skipped: dict[str, str]
    student: Quality
    teacher: Quality | None
    bicubic: Quality
    phi: str | None = None
    """What a contrastive method looked through."""
    teacher_joint: Quality | None = None
    """Of the teacher that was trained with the student inside it."""
    flags: tuple[str, ...] = ()
    """What was noticed during the run that a reader of its result should know."""
    trials: TrialsReport | None = None
    """Of a run with baselines or several seeds; the student is then the best of the recipe's by validation."""


@dataclass(frozen=True)
class TrainingRun:
    """Everything decided before the first step."""

    folder: RunFolder
    request: Mapping[str, Any]
    preset: Preset
    methods: tuple[Method, ...]
    recipe: str
    teacher: Teacher | None
    pupil: StudentInit
    data: Data
    device: torch.device
    seed: int
    cache: TeacherCache | None = None
    pace: ExecutionMode = PLAIN_MODE
    reference: Reference | None = None
    """What is held against the student, where another run of the same teacher and images has measured it."""
    processes: Processes = field(default_factory=Processes)

    @property
    def student(self) -> Network:
        return self.pupil.network

    def go(self, progress: Progress, announce: Note) -> CompressReport:
        """Train, write the averaged student and say what it came to."""
        with self.folder.nothing_lost():
            return self._go(progress, announce)

    def _go(self, progress: Progress, announce: Note) -> CompressReport:
        started, processes = time.monotonic(), self.processes
        self._require_alike()
        # First of all: from here on a killed run can be continued.
        processes.run_on_all(lambda: self.folder.write_facts(self.facts()))
        processes.going_on(lambda: "before the first step", self.folder.continuing)
        stages = self.preset.stages(self.methods, self.pace)
        teacher = None if self.teacher is None else self.teacher.move_to(self.device)
        reference = self.reference or self._reference(teacher)
        state = processes.run_on_all(lambda: self._state(stages, teacher, announce))
        follow_leader(state, processes, stages, None if teacher is None else teacher.network)
        steps = sum(stage.schedule.steps for stage in stages)
        processes.going_on(lambda: f"at step {state.done} of {steps}", self.folder.continuing)
        batches = self._batches(teacher, progress, announce)
        with interruption(processes.wish) as processes.wish:
            events = RunEvents(
                self.folder,
                stages=stages,
                images=self.data.validation,
                reference=reference,
                progress=progress,
                announce=announce,
                processes=processes,
                witness=batches.witness if processes.leads else None,
            )
            run_stages(stages, state, batches, teacher, events, seed=self.seed, processes=processes)
        score = mean_psnr_y(state.averaged(), self.data.validation, self.student.spec.scale, processes)
        joint = self._joint(state)
        report = None
        if processes.leads:
            report = self._report(state, score, teacher, reference, time.monotonic() - started)
            report = dataclasses.replace(report, teacher_joint=joint)
            self.folder.write_facts({**self.facts(), "result": json_value(report)})
        return processes.from_leader(report)

    def _joint(self, state: State) -> Quality | None:
        """What became of the teacher, where it was trained with the student."""
        if state.role != "joint":
            return None
        whole, images = state.ema.network, self.data.validation
        return Quality(mean_psnr_y(whole, images, whole.spec.scale, self.processes), cost(whole.spec))

    def _require_alike(self) -> None:
        """Every process must have loaded and read the same, perhaps on another machine."""
        facts = self.facts()
        for what in SAME:
            seen = {key: value for key, value in (facts[what] or {}).items() if key != "path"}
            self.processes.agree(
                json.dumps(seen, sort_keys=True),
                f"has another {what} than rank 0: the same files must lie at the same path on every machine",
            )

    def _state(self, stages: Sequence[Stage], teacher: Teacher | None, announce: Note) -> State:
        """A fresh state, or the newest saved one; metrics of later steps are forgotten."""
        own = None if teacher is None else teacher.network
        state = State.fresh(self._placed(self.student), own, stages[0], self.seed)
        self.folder.states.sweep()

        def told(line: str) -> None:
            self.folder.log(line)
            announce(line)

        taken = self.folder.states.take_up(lambda path: state.load(path, stages, own), told)
        if taken is not None:
            told(f"continuing at step {state.done} of {sum(stage.schedule.steps for stage in stages)}")
        self.folder.forget_after(state.done)
        return state

    def _batches(self, teacher: Teacher | None, progress: Progress, announce: Note) -> Batches:
        rule, device = self.preset.schedule, self.device
        store = placed(self.data.train, device, announce)
        batches = Batches.over(store, batch=rule.batch, lr_patch=rule.lr_patch, seed=self.seed, device=device)
        batches = batches.shared(self.processes.place.share(rule.batch))
        return batches if teacher is None else self._labelled(batches, teacher, progress, announce)

    def _labelled(self, batches: Batches, teacher: Teacher, progress: Progress, announce: Note) -> Batches:
        """With what the teacher cache knows, if there is one. The leader fills it, and then who has another disk."""
        cache, processes = self.cache, self.processes
        if cache is None:
            return batches
        first = processes.run_on_all(lambda: cache.filled(teacher, progress, announce) if processes.leads else None)
        labels = processes.run_on_all(lambda: first or cache.filled(teacher, progress, announce))
        return cache.serve(labels, teacher, batches, announce)

    def _placed(self, network: Network) -> Network:
        return network.to(self.device).to(memory_format=self.pace.memory_format)  # type: ignore[call-overload, no-any-return]

    def _reference(self, teacher: Teacher | None) -> Reference:
        images, scale, processes = self.data.validation, self.student.spec.scale, self.processes
        return Reference(
            bicubic=mean_psnr_y(None, images, scale, processes),
            teacher=None if teacher is None else mean_psnr_y(teacher, images, scale, processes),
        )

    def facts(self) -> dict[str, Any]:
        """run.json: enough to tell what this run was, and to repeat it."""
        data = self.data
        return {
            "schema": "srkd.compress/1",
            "machine": facts(),
            "request": dict(self.request),
            "recipe": self.recipe,
            "preset": self.preset.model_dump(mode="json"),
            "seed": self.seed,
            "device": str(self.device),
            "pace": self.pace.facts(),
            "processes": self.processes.place.world,
            "student": self.student.spec.to_dict(),
            "start": self.pupil.facts(),
            "teacher": self._teacher_facts(),
            "phi": json_value(phi_of(self.methods)),
            "teacher_cache": None if self.cache is None else self.cache.facts(),
            "data": {
                "origin": data.origin,
                "labels": "teacher" if data.train.hr is None else "HR",
                "used": len(data.train),
                "digest": data.train.digest(),
                "skipped": {str(skipped.path): skipped.reason for skipped in data.train.skipped},
                "validation": [image.name for image in data.validation],
            },
        }

    def _teacher_facts(self) -> dict[str, Any] | None:
        if self.teacher is None or self.teacher.origin is None:
            return None
        origin = self.teacher.origin
        return {
            "path": str(origin.path.resolve()),
            "sha256": origin.sha256,
            "kind": self.teacher.backend,
            "options": dict(origin.options),
        }

    def _report(
        self, state: State, psnr: float, teacher: Teacher | None, reference: Reference, seconds: float
    ) -> CompressReport:
        protocol = str(Protocol(border=self.student.spec.scale))
        student = state.averaged()
        self._write_sheet(student, teacher)
        path = self.folder.path / "student.safetensors"
        metadata = {
            "srkd.recipe": self.recipe,
            "srkd.source_sha256": (self._teacher_facts() or {}).get("sha256", ""),
            "srkd.protocol": protocol,
            "srkd.scores": json.dumps({"validation_psnr_y": round(psnr, 4)}),
        }
        save_network(student.to("cpu"), path, metadata=metadata)
        if state.role == "joint":
            whole = state.ema.network.to("cpu")
            origin = {name: metadata[name] for name in ("srkd.recipe", "srkd.source_sha256")}
            save_network(whole, self.folder.path / JOINT_TEACHER, metadata=origin)
        return CompressReport(
            run=self.folder.path,
            student_path=path,
            recipe=self.recipe,
            steps=state.done,
            seconds=seconds,
            protocol=protocol,
            images_used=len(self.data.train),
            images_skipped={str(skipped.path): skipped.reason for skipped in self.data.train.skipped},
            student=Quality(psnr, cost(self.student.spec)),
            teacher=None if reference.teacher is None else self._teacher_quality(reference.teacher),
            bicubic=Quality(reference.bicubic, None),
            phi=None if (through := phi_of(self.methods)) is None else through.how,
            flags=self.folder.flags(),
        )

    def _teacher_quality(self, psnr_y: float) -> Quality:
        own = None if self.teacher is None else self.teacher.network
        return Quality(psnr_y, None if own is None else cost(own.spec))

    def _write_sheet(self, student: Network, teacher: Teacher | None) -> None:
        """comparison.png: bicubic, student, teacher and original of the first validation image."""
        image, scale = self.data.validation[0], self.student.spec.scale
        shown = [
            ("bicubic", quantised_sr(None, image.lr, scale)),
            ("student", quantised_sr(student, image.lr, scale)),
        ]
        if teacher is not None:
            shown.append(("teacher", quantised_sr(teacher, image.lr, scale)))
        panels = [Panel(picture[0].cpu(), caption) for caption, picture in [*shown, ("original", image.hr)]]
        write_sheet(panels, self.folder.path / "comparison.png")
