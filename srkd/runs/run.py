"""One training run, started or continued: its run folder, the references, the loop, and the report."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
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
from compressor.images.metrics import Protocol, below_bicubic
from compressor.models.checkpoints.licence import KEY as LICENCE
from compressor.models.checkpoints.licence import commercial_warning
from compressor.models.checkpoints.save import save_network
from compressor.models.fitting.fit import fit
from compressor.models.networks.base import ImageModel, Network, Spec
from compressor.models.networks.cost import cost
from compressor.models.quantisation.quantisers import round_biases
from compressor.teachers.licence import licence_of
from compressor.teachers.teacher import Teacher
from compressor.training.events import Reference, RunEvents, mean_psnr_y, sr_8bit
from compressor.training.loop import Trainer
from compressor.training.pace import Pace, describe_device
from compressor.training.run_folder import FACTS, JOINT_TEACHER, SHEET, STUDENT, RunFolder, require_run
from compressor.training.stage import Stage
from compressor.training.state import State, follow_leader
from demo.sheet import Panel, write_sheet
from srkd.options.compress import CompressOptions
from srkd.options.option import to_json
from srkd.record.result import CompressReport, Quality, ScoresBeforeTraining
from srkd.record.run_file import (
    SAME,
    MachineFacts,
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
from srkd.runs.config import RunConfig, RunNetworks
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


def place_student(config: RunConfig) -> Network:
    """Move the student to the run's device, in the memory layout of its execution mode."""
    return config.mode.lay_out(config.student.to(config.device))


def place_teacher(config: RunConfig) -> Teacher | None:
    """Move the teacher to the run's device, a network in the same layout as the student."""
    if config.teacher is None:
        return None
    teacher = config.teacher.move_to(config.device)
    if teacher.network is not None:
        config.mode.lay_out(teacher.network)
    return teacher


def build_batches(config: RunConfig, context: Context) -> Batches:
    """This process's part of every batch, without outputs of the teacher cache."""
    rule = config.preset.schedule
    store = place_on_device(config.data.train, config.device, context.note)
    batches = Batches.for_store(
        store,
        batch=rule.batch,
        lr_patch=rule.lr_patch,
        seed=config.options.training.seed,
        device=config.device,
        candidates=rule.crop_candidates,
    )
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
        code_so_far = code if began is None else began.code
        processes.run_on_all(lambda: self._write(self.facts().changed(code=code_so_far)))
        processes.set_resume_hint(lambda: "before the first step", self.folder.resume_command)
        stages = config.stages(config.mode)
        teacher = place_teacher(config)
        teacher_network = None if teacher is None else teacher.network
        reference = config.reference
        if reference is None:
            reference = Reference(self._psnr_y(None), None if teacher is None else self._psnr_y(teacher))
        state, is_new = processes.run_on_all(lambda: self._load_state(stages, teacher_network))
        if began is not None:
            code = code.continuing(began.code, state.done)
        untrained = None if began is None else began.untrained
        if processes.broadcast(is_new):
            untrained = self._solve_or_turn(teacher_network, reference)
            state = self._fresh_state(stages, teacher_network)
        if untrained is not None or code != code_so_far:
            processes.run_on_all(lambda: self._write(self.facts().changed(untrained=untrained, code=code)))
        follow_leader(state, processes, stages, teacher_network)
        steps = sum(stage.schedule.steps for stage in stages)
        processes.set_resume_hint(lambda: f"at step {state.done} of {steps}", self.folder.resume_command)
        batches = self._label(build_batches(config, self.context), teacher)
        processes.stop_request.acknowledge = lambda: self.context.note(STOPPING)
        where = describe_device(config.device, processes.rank.world_size)
        with catch_signals(processes.stop_request) as processes.stop_request:
            events = RunEvents(
                self.folder,
                stages=stages,
                images=config.data.validation,
                reference=reference,
                context=self.context,
                pace=Pace(state.done, steps, where=where, runs=self.runs_left),
                advise=partial(cache_advice, config, teacher),
                batch_hashes=batches.hashes if processes.is_leader else None,
            )
            seed = config.options.training.seed
            Trainer(stages, state, batches, teacher, events, seed=seed, context=self.context).run()
        trained, joint = _finished(state.averaged_network()), None
        student = self._psnr_y(trained)
        if state.role == "joint":
            whole = state.ema.network
            joint = Quality(self._psnr_y(whole), cost(whole.spec))
        report = None
        if processes.is_leader:
            self._write_networks(state, trained, student, reference.bicubic, teacher)
            seconds = time.monotonic() - started
            report = self._report(state, student, joint, reference, seconds=seconds, untrained=untrained)
            self._write(self.facts().changed(untrained=untrained, code=code, result=report))
        return processes.broadcast(report)

    def _psnr_y(self, network: ImageModel | None) -> float:
        """The mean Y-PSNR in dB of a network on the validation images; None stands for bicubic."""
        images, scale = self.config.data.validation, self.config.student.spec.scale
        return mean_psnr_y(network, images, scale, self.context.processes)

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
        return State.fresh(place_student(self.config), teacher, stages[0], self.config.options.training.seed)

    def _write(self, contents: RunFile) -> None:
        self.folder.write_facts(contents.to_json())

    def note(self, line: str) -> None:
        """Write a line to log.txt, and tell it."""
        self.folder.log(line)
        self.context.note(line)

    def _solve_or_turn(self, teacher: Network | None, reference: Reference) -> ScoresBeforeTraining | None:
        """Solve for the student's weights, on all processes together, if the run starts with a fit.

        A run that starts with a fit or with a slice of the teacher turned to its strongest directions gets the scores
        before its first step; others get None.
        """
        config, began = self.config, time.monotonic()
        plain_slice = config.student_init.plain_slice
        if teacher is None or plain_slice is None:
            return None
        assert reference.teacher is not None
        sliced = self._psnr_y(plain_slice.to(config.device).eval())
        how = "the teacher's strongest directions come first"
        if config.student_init.init == "fit":
            patches = draw_calibration_patches(config.data.train, seed=config.options.training.seed)
            config.student.load_state_dict(solve(teacher, config.student.spec, patches, self.context))
            how = (
                f"solved for in {time.monotonic() - began:.0f} s on {len(patches)} patches of "
                f"{patches.shape[-1]}x{patches.shape[-2]}"
            )
        untrained = ScoresBeforeTraining(self._psnr_y(config.student.to(config.device).eval()), sliced)
        self.note(
            f"{how}: the student has {untrained.student:.3f} dB before the first step (slice {untrained.slice:.3f}, "
            f"bicubic {reference.bicubic:.3f}, teacher {reference.teacher:.3f})"
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
        """run.json before the result: all that is needed to identify and repeat this run."""
        config, data, cache = self.config, self.config.data, self.config.cache
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
            processes=self.context.processes.rank.world_size,
            student=StudentSpec.model_validate(json_value(config.student.spec.to_dict())),
            quantisation=config.student.quantisation,
            start=config.student_init.facts(),
            teacher=None if config.teacher is None else _teacher_entry(config.teacher),
            phi=phi_entry(config),
            teacher_cache=None if cache is None else TeacherOutputs.model_validate(cache.facts()),
            data=TrainingImages(
                origin=data.origin,
                labels="teacher" if data.train.hr is None else "HR",
                used=len(data.train),
                digest=data.train.digest(),
                skipped={str(image.path): image.reason for image in data.train.skipped},
                validation=tuple(image.name for image in data.validation),
            ),
        )

    def _report(
        self,
        state: State,
        psnr_y: float,
        joint: Quality | None,
        reference: Reference,
        *,
        seconds: float,
        untrained: ScoresBeforeTraining | None,
    ) -> CompressReport:
        config, teacher = self.config, None
        if reference.teacher is not None:
            network = None if config.teacher is None else config.teacher.network
            teacher = Quality(reference.teacher, None if network is None else cost(network.spec))
        warning = below_bicubic("the student", psnr_y, reference.bicubic)
        if warning:
            self.folder.log(warning)
        origin = None if config.teacher is None else config.teacher.origin
        licence_warning = None if origin is None else commercial_warning(licence_of(origin.path))
        return CompressReport(
            run=self.folder.path,
            student_path=self.folder.path / STUDENT,
            recipe=config.recipe,
            steps=state.done,
            seconds=seconds,
            protocol=self._protocol,
            images_used=len(config.data.train),
            images_skipped={str(image.path): image.reason for image in config.data.train.skipped},
            student=Quality(psnr_y, cost(config.student.spec)),
            teacher=teacher,
            bicubic=Quality(reference.bicubic, None),
            phi=None if config.phi is None else config.phi.how,
            teacher_joint=joint,
            untrained=untrained,
            flags=(*self.folder.flags(), *(line for line in (warning, licence_warning) if line)),
            quantisation=None if config.student.quantisation is None else config.student.quantisation.line(),
        )

    @property
    def _protocol(self) -> str:
        return str(Protocol(border=self.config.student.spec.scale))

    def _write_networks(
        self, state: State, student: Network, psnr_y: float, bicubic: float, teacher: Teacher | None
    ) -> None:
        """Write comparison.png, the student and, if it was trained too, the teacher."""
        config = self.config
        image, scale = config.data.validation[0], config.student.spec.scale
        models: dict[str, ImageModel | None] = {"bicubic": None, "student": student}
        if teacher is not None:
            models["teacher"] = teacher
        pictures = {caption: sr_8bit(model, image.lr, scale) for caption, model in models.items()}
        pictures["original"] = image.hr
        panels = [Panel(picture[0].cpu(), caption) for caption, picture in pictures.items()]
        write_sheet(panels, self.folder.path / SHEET)
        source = None if config.teacher is None else config.teacher.origin
        origin = {"srkd.recipe": config.recipe, "srkd.source_sha256": "" if source is None else source.sha256}
        licence = None if source is None else licence_of(source.path)
        if licence is not None:
            origin[LICENCE] = licence
        figures = {"validation_psnr_y": round(psnr_y, 4), "bicubic_psnr_y": round(bicubic, 4)}
        scores = {"srkd.protocol": self._protocol, "srkd.scores": json.dumps(figures)}
        save_network(student.to("cpu"), self.folder.path / STUDENT, metadata={**origin, **scores})
        if state.role == "joint":
            save_network(state.ema.network.to("cpu"), self.folder.path / JOINT_TEACHER, metadata=origin)


def _finished(student: Network) -> Network:
    """The trained student in the form of its file: with rounded biases if it is quantised."""
    if student.quantisation is None:
        return student
    finished = copy.deepcopy(student)
    round_biases(finished, torch.zeros(1, finished.descriptor.channels, 16, 16, device=finished.device))
    return finished


def plan_entry(options: CompressOptions) -> StudentPlan | None:
    """The entry `plan` of run.json; None if no target decided the student."""
    return None if options.plan is None else StudentPlan.model_validate(options.plan)


def phi_entry(networks: RunNetworks) -> PhiFile | None:
    """The entry `phi` of run.json; None for a recipe without φ."""
    return None if networks.phi is None else PhiFile(**asdict(networks.phi))


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


_SOLVED: dict[tuple[object, ...], dict[str, torch.Tensor]] = {}
"""Cache of the last fitted student: the runs of a plan with one seed, and comparisons, need the same one again."""


def solve(teacher: Network, spec: Spec, patches: torch.Tensor, context: Context) -> dict[str, torch.Tensor]:
    """The weights of a fitted student, computed once for the same teacher, spec and patches."""
    digest = hashlib.blake2b(patches.numpy().tobytes(), digest_size=16).hexdigest()
    key = (teacher.fingerprint(), spec, digest, str(teacher.device), torch.get_num_threads())
    if key not in _SOLVED:
        weights = fit(teacher, spec, patches, context=context).state_dict()
        _SOLVED.clear()
        _SOLVED[key] = {name: value.clone() for name, value in weights.items()}
    return _SOLVED[key]
