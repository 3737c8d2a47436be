"""One training run, started or continued: its run folder, the references, the loop, and the report."""

from __future__ import annotations

import copy
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch

from compressor.base.context import Context, Note
from compressor.base.errors import SrkdError
from compressor.base.interrupts import catch_signals
from compressor.base.machine import machine_facts
from compressor.base.memory import keep_freed_memory
from compressor.base.processes import Processes
from compressor.data.batches import Batches, draw_calibration_patches
from compressor.data.placement import place_on_device
from compressor.degradation.names import METADATA as DEGRADATION
from compressor.images.metrics import below_bicubic
from compressor.images.scores import GOAL_WORDS, without_network
from compressor.images.sheet import Panel, write_sheet
from compressor.models.checkpoints.licence import KEY as LICENCE
from compressor.models.checkpoints.licence import commercial_warning
from compressor.models.checkpoints.load import load_checkpoint
from compressor.models.checkpoints.save import save_network
from compressor.models.fitting.patches import PATCH
from compressor.models.networks.base import ImageModel, Network
from compressor.models.networks.cost import cost
from compressor.models.quantisation.quantisers import round_biases
from compressor.teachers.licence import licence_of
from compressor.teachers.teacher import Teacher
from compressor.training.events import RunEvents
from compressor.training.loop import Trainer
from compressor.training.pace import Pace, describe_device
from compressor.training.run_folder import FACTS, JOINT_TEACHER, SHEET, STUDENT, RunFolder, require_run
from compressor.training.stage import Stage
from compressor.training.state import State, follow_leader
from compressor.training.validation import Reference, enlarge, middle_of
from srkd.options.compress import CompressOptions
from srkd.options.option import to_json
from srkd.options.values import as_tuple
from srkd.record.result import CompressReport, Quality, ScoresBeforeTraining
from srkd.record.run_file import (
    SAME,
    DegradationSteps,
    MachineFacts,
    MarginOfLabels,
    PhiFile,
    RunFile,
    StudentPlan,
    StudentSpec,
    TeacherFile,
    TeacherOutputs,
    TrainingImages,
    TrainingMode,
    read_run_file,
)
from srkd.runs.cache_advice import cache_advice
from srkd.runs.code import require_same_code, used_code
from srkd.runs.config import RunConfig, RunNetworks, data_choice
from srkd.runs.solved import solve
from srkd.terminal.console import json_value
from srkd.version import __version__

STOPPING = "stopping: this step is finished and saved first; a second Ctrl-C stops at once"
"""The note that is shown at once when a signal stops a run."""


def train_run(
    config: RunConfig,
    context: Context,
    *,
    began: RunFile | None = None,
    part_of: Path | None = None,
    runs_left: int = 1,
) -> CompressReport:
    """Start the run of `config` or, with the run.json of a run that `began`, continue that.

    `runs_left` counts this run and the following runs of its plan.
    """
    path, processes = config.options.run.folder, context.processes
    folder = processes.run_on_all(
        lambda: RunFolder(
            path,
            resumed=began is not None,
            part_of=part_of,
            writes=processes.is_leader,
            trackers=config.options.run.track,
            sends_pictures=config.options.run.track_images is not None,
        )
    )
    if not processes.is_single:
        folder.program = "torchrun ... -m srkd"
    run = TrainingRun(config, folder, context, runs_left, began)
    if began is not None:
        processes.run_on_all(lambda: require_same(began, run.facts(), config.options, run.note))
    with folder.report_unwritable(), folder.tracking():
        return run.train()


def read_or_discard_started(run: Path) -> RunFile | None:
    """run.json of a run of a plan that was started. A folder without one is deleted; return None."""
    if (run / FACTS).is_file():
        return read_run_file(run)
    if run.is_dir():
        shutil.rmtree(run)
    return None


def read_unfinished(run: Path, processes: Processes) -> RunFile:
    """run.json of a run that can be continued; only the leading process needs the folder."""

    def read() -> RunFile | None:
        if not processes.is_leader:
            return None
        require_run(run)
        began = read_run_file(run)
        if began.is_finished:
            raise SrkdError(f"--resume {run}: the run is finished; its student is {run / STUDENT}")
        return began

    return processes.broadcast(processes.run_on_all(read))


def require_same(before: RunFile, now: RunFile, options: CompressOptions, note: Note) -> None:
    """Refuse to continue a run with another recipe, teacher, student, other images or, if not accepted, other code."""
    run, key = options.run.folder, before.difference(now)
    if key is not None:
        raise SrkdError(
            f"--resume {run}: its {key} is not what it was when the run began (run.json has it); "
            "put it back, or start a new run"
        )
    assert now.code is not None
    require_same_code(before, now.code, f"--resume {run}", note, accepted=options.accept_changed_code)


def place_teacher(config: RunConfig) -> Teacher | None:
    """Move the teacher to the run's device, in the memory layout in which a frozen network is fast."""
    if config.teacher is None:
        return None
    teacher = config.teacher.move_to(config.device)
    if teacher.network is not None:
        config.mode.lay_out(teacher.network, frozen=True)
    return teacher


def build_batches(config: RunConfig, context: Context) -> Batches:
    """This process's part of every batch, without outputs of the teacher cache."""
    rule = config.preset.schedule
    images = config.data.train if config.labels == "original" else replace(config.data.train, hr=None)
    store = place_on_device(images, config.device, context.note)
    batches = Batches.for_store(
        store,
        batch=rule.batch,
        lr_patch=rule.lr_patch,
        seed=config.options.training.seed,
        device=config.device,
        candidates=rule.crop_candidates,
    )
    batches = replace(batches, teacher_side=config.teacher_side)
    return batches.for_samples(context.processes.rank.share(rule.batch))


@dataclass(frozen=True)
class TrainingRun:
    """One run in its folder, from the first step (or the last saved state) to the report."""

    config: RunConfig
    folder: RunFolder
    context: Context
    runs_left: int = 1
    began: RunFile | None = None
    """run.json of the run if it is continued."""

    def train(self) -> CompressReport:
        """Train, write the averaged student, and return the report."""
        config, processes, started = self.config, self.context.processes, time.monotonic()
        self._require_same_everywhere()
        if config.device.type == "cpu":
            keep_freed_memory()
        # Written first, so that a run killed from here on can be continued.
        began, code = self.began, used_code(config)
        code_so_far, untrained = (code, None) if began is None else (began.code, began.untrained)
        processes.run_on_all(lambda: self._write(self.facts().changed(untrained=untrained, code=code_so_far)))
        processes.set_resume_hint(lambda: "before the first step", self.folder.resume_command)
        stages = config.stages(config.mode)
        teacher = place_teacher(config)
        teacher_network = None if teacher is None else teacher.network
        reference = config.validation.reference
        state, is_new = processes.run_on_all(lambda: self._load_state(stages, teacher_network))
        if began is not None:
            code = code.continuing(began.code, state.done)
        if processes.broadcast(is_new):
            untrained = self._solve_or_turn(teacher, reference)
            state = self._fresh_state(stages, teacher_network)
            if untrained is not None:
                # The student may be at its best before the first step.
                state.best_psnr_y = untrained.student
                self.folder.save_best(config.student)
        if untrained is not None or code != code_so_far:
            processes.run_on_all(lambda: self._write(self.facts().changed(untrained=untrained, code=code)))
        follow_leader(state, processes, stages, teacher_network)
        state.started = started
        steps = sum(stage.schedule.steps for stage in stages)
        processes.set_resume_hint(lambda: f"at step {state.done} of {steps}", self.folder.resume_command)
        batches = self._label(build_batches(config, self.context), teacher)
        processes.stop_request.acknowledge = lambda: self.context.note(STOPPING)
        where = describe_device(config.device, processes.rank.world_size)
        with catch_signals(processes.stop_request):
            events = RunEvents(
                self.folder,
                stages=stages,
                validation=config.validation,
                pictures=[number - 1 for number in as_tuple(config.options.run.track_images or 1)],
                context=self.context,
                pace=Pace(state.done, steps, where=where, runs=self.runs_left),
                advise=partial(cache_advice, config, teacher),
                batch_hashes=batches.hashes if processes.is_leader else None,
            )
            seed = config.options.training.seed
            Trainer(stages, state, batches, teacher, events, seed=seed, context=self.context).run()
        trained, joint = _finished(state.averaged_network()), None
        student = Quality.of(config.validation.score_sets(trained), cost(config.student.spec))
        # A stage after the main one gives up some dB on purpose.
        worse = None if stages[-1].is_later else _below_its_start(student.scores.by(config.goal), untrained)
        if worse and state.role == "student":
            # Not the trained student but the best one, which may be the start.
            weights = processes.run_on_all(lambda: self._best_weights() if processes.is_leader else None)
            trained.load_state_dict(processes.broadcast(weights))
            student = Quality.of(config.validation.score_sets(trained), cost(config.student.spec))
            self.folder.log(worse)
        if state.role == "joint":
            whole = state.ema.network
            joint = Quality.of(config.validation.score_sets(whole), cost(whole.spec))
        report = None
        if processes.is_leader:
            self._write_networks(state, trained, student, teacher)
            report = self._report(state, student, joint, worse, untrained=untrained)
            self._write(self.facts().changed(untrained=untrained, code=code, result=report))
        return processes.broadcast(report)

    def _best_weights(self) -> dict[str, torch.Tensor]:
        return load_checkpoint(self.folder.best).network.state_dict()

    def _judge(self, network: ImageModel) -> float:
        """The Y-PSNR in dB by which a student is judged."""
        return self.config.validation.judge(self.config.validation.score(network))

    def _require_same_everywhere(self) -> None:
        """Refuse a process, perhaps on another machine, that has read other files."""
        facts = self.facts().to_json()
        for key in (*SAME, "code"):
            values = {name: value for name, value in (facts[key] or {}).items() if name != "path"}
            self.context.processes.require_equal(
                json.dumps(values, sort_keys=True),
                f"has another {key} than rank 0: the same files must lie at the same path on every machine",
            )

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
        config = self.config
        return State.fresh(config.student.to(config.device), teacher, stages[0], config.options.training.seed)

    def _write(self, contents: RunFile) -> None:
        self.folder.write_facts(contents.to_json())

    def note(self, line: str) -> None:
        """Write a line to log.txt, and tell it."""
        self.folder.log(line)
        self.context.note(line)

    def _solve_or_turn(self, teacher: Teacher | None, reference: Reference) -> ScoresBeforeTraining | None:
        """Solve for the student's weights, on all processes together, if the run starts with a fit.

        A run that starts with a fit or with a slice of the teacher turned to its strongest directions gets the scores
        before its first step; others get None.
        """
        config, began = self.config, time.monotonic()
        if teacher is None or not config.student_init.is_computed:
            return None
        plain_slice = config.student_init.plain_slice
        sliced = None if plain_slice is None else self._judge(plain_slice.to(config.device).eval())
        how = "the teacher's strongest directions come first"
        if config.student_init.init == "fit":
            size = teacher.own_sizes.fixed_size
            side = PATCH if size is None else min(size)
            patches = draw_calibration_patches(config.data.train, seed=config.options.training.seed, side=side)
            cache = data_choice(config.options).cache()
            solved, was_kept = solve(teacher, config.student.spec, patches, cache, self.context)
            config.student.load_state_dict(solved.state_dict())
            when = "as it was solved for before" if was_kept else f"solved for in {time.monotonic() - began:.0f} s"
            how = f"{when} on {len(patches)} patches of {patches.shape[-1]}x{patches.shape[-2]}"
        untrained = ScoresBeforeTraining(self._judge(config.student.to(config.device).eval()), sliced)
        others = {"slice": untrained.slice, reference.name: reference.bicubic.by(config.goal)}
        if config.goal == "original" and reference.teacher is not None:
            others["teacher"] = reference.teacher.psnr_y
        self.note(
            f"{how}: the student has {untrained.student:.3f} dB {GOAL_WORDS[config.goal]} before the first step "
            f"({', '.join(f'{name} {psnr:.3f}' for name, psnr in others.items() if psnr is not None)})"
        )
        return untrained

    def _label(self, batches: Batches, teacher: Teacher | None) -> Batches:
        """Batches with cached teacher outputs, if any; the leader fills the cache, then processes elsewhere."""
        cache, context, processes = self.config.cache, self.context, self.context.processes
        if cache is None or teacher is None:
            return batches
        first = processes.run_on_all(lambda: cache.fill(teacher, context) if processes.is_leader else None)
        labels = processes.run_on_all(lambda: first or cache.fill(teacher, context))
        return cache.attach(labels, teacher, batches, context.note)

    def facts(self) -> RunFile:
        return run_facts(self.config, self.context.processes)

    def _report(
        self,
        state: State,
        student: Quality,
        joint: Quality | None,
        worse: str | None,
        *,
        untrained: ScoresBeforeTraining | None,
    ) -> CompressReport:
        config, teacher = self.config, None
        validation = config.validation
        if validation.teacher is not None:
            network = validation.teacher.network
            teacher = Quality.of(validation.teacher_by_set, None if network is None else cost(network.spec))
        bicubic = Quality.of(validation.bicubic_by_set, None)
        warning = below_bicubic("the student", student.psnr_y, bicubic.psnr_y, config.goal, validation.scale)
        if warning:
            self.folder.log(warning)
        origin = None if config.teacher is None else config.teacher.origin
        licence_warning = None if origin is None else commercial_warning(licence_of(origin.path))
        return CompressReport(
            run=self.folder.path,
            student_path=self.folder.path / STUDENT,
            recipe=config.recipe,
            steps=state.done,
            seconds=state.seconds,
            protocol=config.validation.protocol,
            images_used=len(config.data.train),
            images_skipped={str(image.path): image.reason for image in config.data.train.skipped},
            student=student,
            teacher=teacher,
            bicubic=bicubic,
            scale=validation.scale,
            goal=config.goal,
            phi=None if config.phi is None else config.phi.how,
            teacher_joint=joint,
            untrained=untrained,
            flags=(*self.folder.flags(), *(line for line in (warning, worse, licence_warning) if line)),
            quantisation=None if config.student.quantisation is None else config.student.quantisation.line(),
        )

    def _write_networks(self, state: State, student: Network, quality: Quality, teacher: Teacher | None) -> None:
        """Write comparison.png, the student and, if it was trained too, the teacher."""
        config = self.config
        image, scale = config.data.validation[0].images[0], config.student.spec.scale
        models: dict[str, ImageModel | None] = {without_network(scale): None, "student": student}
        if teacher is not None:
            models["teacher"] = teacher
        pictures = {caption: enlarge(model, image.lr, scale) for caption, model in models.items()}
        if image.hr is not None:
            pictures["original"] = image.hr
        panels = [Panel(middle_of(picture)[0].float() / 255, caption) for caption, picture in pictures.items()]
        write_sheet(panels, self.folder.path / SHEET)
        source = None if config.teacher is None else config.teacher.origin
        recipe, sha256 = config.recipe, "" if source is None else source.sha256
        if config.distilled is not None:
            first = config.distilled
            recipe, sha256 = f"{first.recipe}, then {recipe}", "" if first.teacher is None else first.teacher.sha256
        origin = {"srkd.recipe": recipe, "srkd.source_sha256": sha256}
        licence = None if source is None else licence_of(source.path)
        if licence is not None:
            origin[LICENCE] = licence
        if config.data.train.degraded is not None:
            origin[DEGRADATION] = json.dumps(config.data.train.degraded.degradation.to_json())
        reference = config.validation.reference
        figures = {
            "validation_psnr_y": quality.psnr_y,
            f"{reference.name}_psnr_y": reference.bicubic.psnr_y,
            "validation_psnr_y_teacher": quality.psnr_y_teacher,
            f"{reference.name}_psnr_y_teacher": reference.bicubic.psnr_y_teacher,
        }
        known = {name: round(psnr, 4) for name, psnr in figures.items() if psnr is not None}
        scores = {
            "srkd.protocol": config.validation.protocol,
            "srkd.scores": json.dumps(known),
            "srkd.goal": config.goal,
        }
        save_network(student.to("cpu"), self.folder.path / STUDENT, metadata={**origin, **scores})
        if state.role == "joint":
            save_network(state.ema.network.to("cpu"), self.folder.path / JOINT_TEACHER, metadata=origin)


WORSE_DB = 0.02
"""Difference in dB from which a student is worse than its start."""


def _below_its_start(judged: float | None, untrained: ScoresBeforeTraining | None) -> str | None:
    """A line if training made a student worse than it was before the first step."""
    if untrained is None or judged is None or judged >= untrained.student - WORSE_DB:
        return None
    return (
        f"training made the student worse than its start, {judged:.3f} dB against {untrained.student:.3f}: {STUDENT} "
        "is the best one, perhaps the start; train for more steps (--steps) or at a lower rate (--rate)"
    )


def _finished(student: Network) -> Network:
    """The trained student in the form of its file: with rounded biases if it is quantised."""
    if student.quantisation is None:
        return student
    finished = copy.deepcopy(student)
    round_biases(finished, torch.zeros(1, finished.descriptor.channels, 16, 16, device=finished.device))
    return finished


def run_facts(config: RunConfig, processes: Processes) -> RunFile:
    """run.json before the result: all that is needed to identify and repeat a run."""
    data, cache, degraded = config.data, config.cache, config.data.train.degraded
    return RunFile(
        srkd_version=__version__,
        machine=MachineFacts.model_validate(machine_facts()),
        request=to_json(config.options),
        plan=plan_entry(config.options),
        recipe=config.recipe,
        preset=config.preset,
        code=used_code(config),
        seed=config.options.training.seed,
        device=str(config.device),
        execution_mode=TrainingMode(**asdict(config.mode)),
        processes=processes.rank.world_size,
        goal=config.goal,
        student=StudentSpec.model_validate(json_value(config.student.spec.to_dict())),
        quantisation=config.student.quantisation,
        start=config.student_init.facts(),
        teacher=None if config.teacher is None else _teacher_entry(config.teacher),
        phi=phi_entry(config),
        teacher_cache=None if cache is None else TeacherOutputs.model_validate(cache.facts()),
        label_margin=margin_entry(config),
        data=TrainingImages(
            origin=data.origin,
            labels="teacher" if config.labels == "teacher" else "HR",
            used=len(data.train),
            digest=data.train.digest(),
            skipped={str(image.path): image.reason for image in data.train.skipped},
            validation=data.validation_names,
        ),
        degradation=None
        if degraded is None
        else DegradationSteps.model_validate_json(json.dumps(degraded.degradation.to_json())),
    )


def plan_entry(options: CompressOptions) -> StudentPlan | None:
    """The entry `plan` of run.json; None if no target decided the student."""
    return None if options.plan is None else StudentPlan.model_validate(options.plan)


def phi_entry(networks: RunNetworks) -> PhiFile | None:
    """The entry `phi` of run.json; None for a recipe without φ."""
    return None if networks.phi is None else PhiFile(**asdict(networks.phi))


def margin_entry(config: RunConfig) -> MarginOfLabels | None:
    """The entry `label_margin` of run.json; None if no teacher runs on patches, or where nothing was decided."""
    return None if config.label_margin is None else MarginOfLabels(**asdict(config.label_margin))


def _teacher_entry(teacher: Teacher) -> TeacherFile | None:
    """The entry `teacher` of run.json; None for a teacher that came from no file."""
    origin = teacher.origin
    if origin is None:
        return None
    return TeacherFile(
        path=origin.path.resolve(),
        sha256=origin.sha256,
        kind=teacher.backend,
        options=dict(origin.options),
        licence=licence_of(origin.path),
    )
