"""`train`: one run in its folder, started or continued, from its first files to its last step."""

from __future__ import annotations

import copy
import json
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from compressor.base.compute_device import ComputeDevice
from compressor.base.context import Context, Note
from compressor.base.errors import SrkdError
from compressor.base.interrupts import signal_handlers
from compressor.base.machine import count_threads, machine_facts, torch_threads
from compressor.base.memory import keep_freed_memory
from compressor.data.batches import Batches
from compressor.degradation.names import METADATA as DEGRADATION
from compressor.images.scores import GOAL_WORDS, without_network
from compressor.images.sheet import write_sheet
from compressor.models.checkpoints.header import FAITHFUL, TEXTURED
from compressor.models.checkpoints.licence import KEY as LICENCE
from compressor.models.checkpoints.licence import commercial_warning
from compressor.models.checkpoints.load import load_checkpoint
from compressor.models.checkpoints.save import STRENGTH, save_network
from compressor.models.networks.base import ImageModel, Network
from compressor.models.networks.cost import cost
from compressor.models.quantisation.quantisers import round_biases
from compressor.models.students.blend import Blended
from compressor.teachers.teacher import Teacher
from compressor.training.events import RunEvents
from compressor.training.loop import Trainer
from compressor.training.run_folder import JOINT_TEACHER, SHEET, STUDENT, RunFolder
from compressor.training.stage import Stage
from compressor.training.state import State, follow_leader
from compressor.training.validation import Reference
from srkd.options.values import as_tuple
from srkd.record.code import CodeFacts
from srkd.record.result import CompressReport, Quality, ScoresBeforeTraining
from srkd.record.run_file import RunFile, find_run_file
from srkd.record.run_spec import RunSpec
from srkd.runs.blending import blend_of
from srkd.runs.code import require_same_code, used_code
from srkd.runs.opened import ChangedInput, OpenRun, build_batches, open_run, solve
from srkd.version import __version__

STOPPING = "stopping: this step is finished and saved first; a second Ctrl-C stops at once"
"""The note that is shown at once when a signal stops a run."""


def train(
    spec: RunSpec, path: Path, context: Context, *, part_of: Path | None = None, accept_changed_code: bool = False
) -> CompressReport:
    """Train the run of a spec in a folder, from its newest state if it has begun; the only way in which a run trains.

    The process has the folder's lock. `part_of` is the folder of the run's plan.
    """
    group = context.processes
    began = group.from_leader(lambda: find_run_file(path))
    where = f"--resume {part_of or path}"
    if began is not None:
        _note_what_changed(began, context.note)
    with torch_threads(spec.threads):
        opened = group.run_on_all(lambda: _open(spec, context, where))
        code = used_code(opened)
        if began is not None and began.code is not None:
            before = began.code
            group.run_on_all(lambda: require_same_code(before, code, where, context.note, accepted=accept_changed_code))
        folder = group.run_on_all(
            lambda: RunFolder(
                path,
                resumed=began is not None,
                part_of=part_of,
                writes=group.is_leader,
                trackers=spec.options.run.track,
                sends_pictures=spec.options.run.track_images is not None,
            )
        )
        if not group.is_single:
            folder.program = "torchrun ... -m srkd"
        run = TrainingRun(opened, folder, context, began, code)
        with folder.report_unwritable(), folder.tracking():
            return run.train()


def new_run_file(spec: RunSpec, **entries: Any) -> RunFile:
    return RunFile(**{**spec.entries(), "srkd_version": __version__, "machine": machine_facts(), **entries})


def _open(spec: RunSpec, context: Context, where: str) -> OpenRun:
    """The run opened; say of which process, or of which folder, a file has changed."""
    try:
        return open_run(spec, context)
    except ChangedInput as error:
        rank = context.processes.rank
        if rank.is_leader:
            raise SrkdError(f"{where}: its {error}") from error
        raise SrkdError(
            f"rank {rank.index} of {rank.world_size}, on {platform.node()}, has another {error.key} than rank 0: the "
            "same files must lie at the same path on every machine"
        ) from error


def _note_what_changed(began: RunFile, note: Note) -> None:
    """Name what cannot be restored, and may change the bytes: the processor, the GPU, the version of torch."""
    now, processor = machine_facts(), "cpu" if began.device == "cpu" else "gpu"
    compared = {name: (began.machine.get(name), now[name]) for name in (processor, "torch")}
    changes = [f"{name} {old}, now {new}" for name, (old, new) in compared.items() if old not in (None, new)]
    if changes:
        note(
            "the result may differ in its bytes from that of a run that never stopped: "
            f"it began on {'; '.join(changes)}"
        )
    if began.threads != torch.get_num_threads():
        note(
            f"continuing with {count_threads(began.threads)}, as the run began, not {torch.get_num_threads()}: the "
            "bytes depend on the number"
        )


@dataclass(frozen=True)
class TrainingRun:
    """One run in its folder, from the first step (or the last saved state) to the report."""

    run: OpenRun
    folder: RunFolder
    context: Context
    began: RunFile | None
    """run.json of the run if it is continued."""
    code: CodeFacts

    def train(self) -> CompressReport:
        """Train, write what the run leaves, and return its report."""
        run, context, processes, started = self.run, self.context, self.context.processes, time.monotonic()
        if ComputeDevice(run.device).is_cpu:
            keep_freed_memory()
        # Written first, so that a run killed from here on can be continued.
        before = (self.code, None) if self.began is None else (self.began.code, self.began.untrained)
        processes.run_on_all(lambda: self._write(code=before[0], untrained=before[1]))
        processes.set_resume_hint(lambda: "before the first step", self.folder.resume_command)
        stages, teacher = run.stages(), run.place_teacher()
        state, code, untrained = self._begin(stages, teacher)
        if processes.broadcast((code, untrained) != before):
            processes.run_on_all(lambda: self._write(code=code, untrained=untrained))
        state.started = started
        batches = self._label(build_batches(run, context), teacher)
        self._take_steps(stages, state, batches, teacher)
        blended = blend_of(run, state, batches, teacher, context)
        student, quality, worse = self._student(state, blended, untrained)
        joint = self._quality(state.ema.network) if state.role == "joint" else None
        report = None
        if processes.is_leader:
            models: dict[str, ImageModel | None] = {without_network(run.spec.student.scale): None, "student": student}
            models |= {} if teacher is None else {"teacher": teacher}
            write_sheet(run.validation.pictures(0, models), self.folder.path / SHEET)
            self._write_networks(state, student, quality, blended)
            report = self._report(state, quality, joint, worse, untrained=untrained, blended=blended)
            self._write(code=code, untrained=untrained, result=report)
        return processes.broadcast(report)

    def _begin(
        self, stages: Sequence[Stage], teacher: Teacher | None
    ) -> tuple[State, CodeFacts, ScoresBeforeTraining | None]:
        """Return the state before the next step, the code of all steps, and the scores before the first one."""
        run, processes, began = self.run, self.context.processes, self.began
        network = None if teacher is None else teacher.network
        reference = run.validation.reference
        state, is_new = processes.run_on_all(lambda: self._load_state(stages, network))
        code, untrained = self.code, None
        if began is not None:
            code, untrained = code.continuing(began.code, state.done), began.untrained
        if processes.broadcast(is_new):
            untrained = self._solve_or_turn(teacher, reference)
            state = self._fresh_state(stages, network)
            if untrained is not None:
                # The student may be at its best before the first step.
                state.best_psnr_y = untrained.student
                self.folder.save_best(run.student.network)
        follow_leader(state, processes, stages, network)
        return state, code, untrained

    def _take_steps(self, stages: Sequence[Stage], state: State, batches: Batches, teacher: Teacher | None) -> None:
        run, processes = self.run, self.context.processes
        steps = sum(stage.schedule.steps for stage in stages)
        processes.set_resume_hint(lambda: f"at step {state.done} of {steps}", self.folder.resume_command)
        processes.stop_request.acknowledge = lambda: self.context.note(STOPPING)
        with signal_handlers(processes.stop_request.handlers):
            events = RunEvents(
                self.folder,
                stages=stages,
                validation=run.validation,
                pictures=[number - 1 for number in as_tuple(run.spec.options.run.track_images or 1)],
                context=self.context,
                done=state.done,
                batch_hashes=batches.hashes if processes.is_leader else None,
            )
            Trainer(stages, state, batches, teacher, events, seed=run.spec.seed, context=self.context).run()

    def _judge(self, network: ImageModel) -> float:
        """The Y-PSNR in dB by which a student is judged."""
        return self.run.validation.judge(self.run.validation.score(network))

    def _load_state(self, stages: Sequence[Stage], teacher: Network | None) -> tuple[State, bool]:
        """Load the newest saved state and drop later metrics; return the state, and True if it is a fresh one."""
        state = self._fresh_state(stages, teacher)
        self.folder.states.remove_unfinished()
        path = self.folder.states.load_newest(lambda path: state.load(path, stages, teacher), self.note)
        if path is not None:
            self.note(f"continuing at step {state.done} of {sum(stage.schedule.steps for stage in stages)}")
        self.folder.drop_metrics_after(state.done)
        return state, path is None

    def _fresh_state(self, stages: Sequence[Stage], teacher: Network | None) -> State:
        run = self.run
        return State.fresh(run.student.network.to(run.device), teacher, stages[0], run.spec.seed)

    def _write(self, **entries: Any) -> None:
        self.folder.write_facts(new_run_file(self.run.spec, **entries).to_json())

    def note(self, line: str) -> None:
        """Write a line to log.txt, and tell it."""
        self.folder.log(line)
        self.context.note(line)

    def _solve_or_turn(self, teacher: Teacher | None, reference: Reference) -> ScoresBeforeTraining | None:
        """Solve for the student's weights, if the run starts with a fit, on all processes together.

        Return the scores before the first step, if the student is solved for or cut from a turned teacher; else None.
        """
        run, first = self.run, self.run.student
        if teacher is None or not first.is_computed:
            return None
        sliced = None if first.plain_slice is None else self._judge(first.plain_slice.to(run.device).eval())
        how = "the teacher's strongest directions come first"
        if first.start.init == "fit":
            solved, how = solve(run, teacher, self.context)
            first.network.load_state_dict(solved.state_dict())
        untrained = ScoresBeforeTraining(self._judge(first.network.to(run.device).eval()), sliced)
        others = {"slice": untrained.slice, reference.name: reference.bicubic.by(run.spec.goal)}
        if run.spec.goal == "original" and reference.teacher is not None:
            others["teacher"] = reference.teacher.psnr_y
        self.note(
            f"{how}: the student has {untrained.student:.3f} dB {GOAL_WORDS[run.spec.goal]} before the first step "
            f"({', '.join(f'{name} {psnr:.3f}' for name, psnr in others.items() if psnr is not None)})"
        )
        return untrained

    def _label(self, batches: Batches, teacher: Teacher | None) -> Batches:
        """Batches with cached teacher outputs, if any; the leader fills the cache, then processes elsewhere."""
        cache, context, processes = self.run.cache, self.context, self.context.processes
        if cache is None or teacher is None:
            return batches
        first = processes.run_on_all(lambda: cache.fill(teacher, context) if processes.is_leader else None)
        labels = processes.run_on_all(lambda: first or cache.fill(teacher, context))
        return cache.attach(labels, batches, context.note)

    def _student(
        self, state: State, blended: Blended | None, untrained: ScoresBeforeTraining | None
    ) -> tuple[Network, Quality, str | None]:
        """The student, its quality, and a line if training made it worse than its start."""
        student = state.averaged_network() if blended is None else blended.student
        if student.quantisation is not None:
            # The biases are rounded in its file.
            student = copy.deepcopy(student)
            round_biases(student, torch.zeros(1, student.descriptor.channels, 16, 16, device=student.device))
        quality = self._quality(student)
        # A stage of texture gives up some dB on purpose, and the faithful end none.
        judged = quality if blended is None else self._quality(blended.faithful)
        keeps_best = state.role == "student" and not self.run.stages()[-1].is_later
        worse = _below_its_start(judged.by(self.run.spec.goal), untrained, keeps_best)
        if worse and keeps_best:
            # Not the trained student but the best one, which may be the start.
            best = self.context.processes.from_leader(lambda: load_checkpoint(self.folder.best).network.state_dict())
            student.load_state_dict(best)
            quality = self._quality(student)
        return student, quality, worse

    def _quality(self, network: Network) -> Quality:
        return Quality.of(self.run.validation.score_sets(network), cost(network.spec))

    def _write_networks(self, state: State, student: Network, quality: Quality, blended: Blended | None) -> None:
        """Write the student with its scores, and the ends of its strengths or the trained teacher beside it."""
        run, spec, origin = self.run, self.run.spec, self._origin()
        reference = run.validation.reference
        figures = {
            "validation_psnr_y": quality.psnr_y,
            f"{reference.name}_psnr_y": reference.bicubic.psnr_y,
            "validation_psnr_y_teacher": quality.psnr_y_teacher,
            f"{reference.name}_psnr_y_teacher": reference.bicubic.psnr_y_teacher,
        }
        known = {name: round(psnr, 4) for name, psnr in figures.items() if psnr is not None}
        strength = {} if blended is None else {STRENGTH: f"{blended.strength:g}"}
        goal = {"srkd.goal": spec.goal}
        scores = {"srkd.protocol": run.validation.protocol, "srkd.scores": json.dumps(known), **goal}
        self._save(student, STUDENT, {**origin, **scores, **strength})
        if blended is not None:
            self._save(blended.faithful, FAITHFUL, {**origin, **goal})
            self._save(blended.textured, TEXTURED, {**origin, **goal})
        if state.role == "joint":
            self._save(state.ema.network, JOINT_TEACHER, origin)

    def _save(self, network: Network, name: str, metadata: Mapping[str, str]) -> None:
        save_network(network.to("cpu"), self.folder.path / name, metadata=metadata)

    def _origin(self) -> dict[str, str]:
        """The recipe, teacher, licence and degradation in the metadata of each network."""
        spec, degraded = self.run.spec, self.run.data.train.degraded
        recipe, teacher_file = spec.recipe, spec.teacher
        if (first := spec.distilled) is not None:
            recipe, teacher_file = f"{first.recipe}, then {recipe}", first.teacher
        origin = {"srkd.recipe": recipe, "srkd.source_sha256": ""}
        if teacher_file is not None:
            path = teacher_file.path
            name = path.parent.name if path.name == STUDENT else path.name
            origin |= {"srkd.source_sha256": teacher_file.sha256, "srkd.teacher": name}
        licences = [source.licence for source in (teacher_file, spec.start.init_from) if source and source.licence]
        origin |= {LICENCE: licences[0]} if licences else {}
        if degraded is not None:
            origin[DEGRADATION] = json.dumps(degraded.degradation.to_json())
        return origin

    def _report(
        self,
        state: State,
        student: Quality,
        joint: Quality | None,
        worse: str | None,
        *,
        untrained: ScoresBeforeTraining | None,
        blended: Blended | None,
    ) -> CompressReport:
        run, spec, teacher, validation = self.run, self.run.spec, None, self.run.validation
        if validation.teacher is not None:
            network = validation.teacher.network
            teacher = Quality.of(validation.teacher_by_set, None if network is None else cost(network.spec))
        licence_warning = None if spec.teacher is None else commercial_warning(spec.teacher.licence)
        report = CompressReport(
            run=self.folder.path,
            student_path=self.folder.path / STUDENT,
            recipe=spec.recipe,
            steps=state.done,
            seconds=state.seconds,
            protocol=validation.protocol,
            images_used=len(run.data.train),
            images_skipped={str(image.path): image.reason for image in run.data.skipped},
            student=student,
            teacher=teacher,
            bicubic=Quality.of(validation.bicubic_by_set, None),
            scale=validation.scale,
            goal=spec.goal,
            phi=None if spec.phi is None else spec.phi.how,
            teacher_joint=joint,
            untrained=untrained,
            quantisation=None if spec.quantisation is None else spec.quantisation.line(),
            strength=None if blended is None else blended.strength,
            strengths=() if blended is None else blended.rows,
        )
        for line in filter(None, (worse, report.below_bicubic)):
            self.folder.log(line)
        lines = (line for line in (report.below_bicubic, worse, licence_warning) if line)
        return replace(report, flags=(*self.folder.flags(), *lines))


WORSE_DB = 0.02
"""Difference in dB from which a student is worse than its start."""


def _below_its_start(judged: float | None, untrained: ScoresBeforeTraining | None, keeps_best: bool) -> str | None:
    """A line if training made a student worse than it was before the first step."""
    if untrained is None or judged is None or judged >= untrained.student - WORSE_DB:
        return None
    kept = "the best one, perhaps the start" if keeps_best else "the last one"
    return (
        f"training made the student worse than its start, {judged:.3f} dB against {untrained.student:.3f}: {STUDENT} "
        f"is {kept}; train for more steps (--steps) or at a lower rate (--rate)"
    )
