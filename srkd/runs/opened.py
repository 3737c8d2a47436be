"""What the spec of a run names, read: its teacher, student, methods, images; and the entries of what was read."""

from __future__ import annotations

import copy
import json
import time
from dataclasses import dataclass, replace

import torch

from compressor.base.choices import Goal
from compressor.base.compute_device import ComputeDevice
from compressor.base.context import Context, Note, no_note
from compressor.base.decided import SpeedOptions
from compressor.base.errors import SrkdError, UsageError
from compressor.data.batches import Batches, draw_calibration_patches
from compressor.data.placement import place_on_device
from compressor.data.prepare import Data
from compressor.data.teacher_cache import TeacherCache
from compressor.models.fitting.fit import fit
from compressor.models.fitting.patches import PATCH
from compressor.models.networks.base import Network, Spec
from compressor.models.networks.registry import spec_from_dict
from compressor.runtimes.torch_runtime import torch_device
from compressor.teachers.licence import licence_of
from compressor.teachers.reduced import load_at_scale
from compressor.teachers.teacher import Teacher
from compressor.training.distributed import process_device
from compressor.training.loop import Events, Trainer
from compressor.training.method import Method, fit_methods
from compressor.training.stage import Stage
from compressor.training.state import State
from compressor.training.validation import Validation
from recipes.config.preset import Preset
from recipes.terms.phi import PhiSource, bind_phi
from srkd.record.reading import Entry
from srkd.record.run_spec import DegradationSteps, RunSpec, TeacherFile, TeacherOutputs, TrainingImages
from srkd.runs.images import data_choice, read_images
from srkd.runs.recipe import fit_batch
from srkd.runs.student import FirstStudent, first_student, whole_teacher
from srkd.runs.teacher import fit_sizes, open_teacher
from srkd.runs.teacher_use import TeacherUse, plan_cache


class ChangedInput(SrkdError):
    """What a spec names is not what it was."""

    def __init__(self, key: str) -> None:
        super().__init__(
            f"{key} is not what it was when the run began (run.json has it); put it back, or start a new run"
        )
        self.key = key


@dataclass(frozen=True)
class OpenRun:
    """A run that can train: its spec, and all that this names."""

    spec: RunSpec
    device: torch.device
    teacher: Teacher | None
    student: FirstStudent
    methods: tuple[Method, ...]
    data: Data
    cache: TeacherCache | None
    validation: Validation
    """The validation sets; runs of one operation share them, so that the teacher enlarges their images once."""

    def stages(self) -> tuple[Stage, ...]:
        """The stages of the run in order; the learning rate depends on how the student starts."""
        return self.spec.preset.stages(self.methods, self.spec.execution_mode, is_fitted=self.student.is_computed)

    def place_teacher(self) -> Teacher | None:
        """Move the teacher to the run's device, in the memory layout in which a frozen network is fast."""
        if self.teacher is None:
            return None
        teacher = self.teacher.move_to(self.device)
        if teacher.network is not None:
            self.spec.execution_mode.lay_out(teacher.network, frozen=True)
        return teacher


def open_run(spec: RunSpec, context: Context) -> OpenRun:
    """Read all that a spec names; refuse files that are not what they were when it was decided."""
    device = open_device(process_device(spec.options.run.device, context.processes.rank))
    teacher = None if spec.teacher is None else open_teacher(spec.options.teacher, context)
    if teacher is not None:
        _require_same("teacher", _file_alone(spec.teacher), _file_alone(teacher_entry(teacher)))
    shape = student_shape(spec)
    init_from = None if spec.start.init_from is None else spec.start.init_from.path
    student = first_student(shape, spec.start, teacher, spec.quantisation, spec.seed, context, init_from)
    phi = phi_source(spec)
    use = TeacherUse(spec.options.training.recipe, bind_phi(spec.preset.build_methods(), phi), teacher, spec.labels)
    methods = build_methods(spec.preset, phi, use, student.network)
    choice, lr_patch = data_choice(spec.options), spec.preset.schedule.lr_patch
    data = read_images(choice, shape.scale, lr_patch, context)
    _require_same("data", spec.data, images_entry(data, spec.labels))
    _require_same("degradation", spec.degradation, degradation_entry(data))
    cache = None
    if spec.teacher_cache is not None and teacher is not None:
        cache = plan_cache(spec.preset, teacher, data.train, choice.cache())
        _require_same("teacher_cache", spec.teacher_cache, cache_entry(cache))
    if teacher is not None and any(method.kind == "joint" for method in methods):
        teacher = whole_teacher(teacher, student, context)
    judge = teacher if spec.distilled is None else _open_file(spec, spec.distilled.teacher, device, context)
    validation = context.once(
        "validation",
        *(id(data), shape.scale, spec.goal, id(judge)),
        read=lambda: Validation(data.validation, shape.scale, spec.goal, judge, context),
    )
    return OpenRun(spec, device, teacher, student, methods, data, cache, validation)


def build_batches(run: OpenRun, context: Context) -> Batches:
    """This process's part of every batch, without outputs of the teacher cache."""
    rule, margin = run.spec.preset.schedule, run.spec.label_margin
    images = run.data.train if run.spec.labels == "original" else replace(run.data.train, hr=None)
    store = place_on_device(images, run.device, context.note)
    batches = Batches.for_store(
        store,
        batch=rule.batch,
        lr_patch=rule.lr_patch,
        seed=run.spec.seed,
        device=run.device,
        candidates=rule.crop_candidates,
    )
    batches = replace(batches, teacher_side=margin.side if margin is not None and margin.pixels else None)
    return batches.for_samples(context.processes.rank.share(rule.batch))


def take_steps(run: OpenRun, count: int, events: Events, context: Context, batches: Batches | None = None) -> State:
    """Take the first steps of each stage on copies of the networks, and write nothing; return the last state."""
    stages = [replace(stage, schedule=replace(stage.schedule, steps=count)) for stage in run.stages()]
    teacher, student = run.place_teacher(), copy.deepcopy(run.student.network).to(run.device)
    network = None if teacher is None else teacher.network
    state = State.fresh(student, network, stages[0], run.spec.seed)
    batches = build_batches(run, context) if batches is None else batches
    Trainer(stages, state, batches, teacher, events, seed=run.spec.seed, context=context).run()
    return state


def solve(run: OpenRun, teacher: Teacher, context: Context) -> tuple[Network, str]:
    """The fitted student, and how it was made in words; once for all runs of an operation with the same fit."""
    size, began = teacher.own_sizes.fixed_size, time.monotonic()
    side = PATCH if size is None else min(size)

    def solved() -> tuple[Network, str]:
        patches = draw_calibration_patches(run.data.train, seed=run.spec.seed, side=side)
        student = fit(teacher, run.student.network.spec, patches, context=context)
        on = f"{len(patches)} patches of {patches.shape[-1]}x{patches.shape[-2]}"
        return student, f"solved for in {time.monotonic() - began:.0f} s on {on}"

    key = (id(run.teacher), id(run.data), run.spec.seed, run.student.network.spec)
    return context.once("solved", *key, read=solved)


def student_shape(spec: RunSpec) -> Spec:
    return spec_from_dict(spec.student.model_dump())


def phi_source(spec: RunSpec) -> PhiSource | None:
    return None if spec.phi is None else PhiSource(**spec.phi.model_dump())


def open_device(name: str) -> torch.device:
    """The device, or refuse one that cannot be used here."""
    torch_device(name)  # refuses unknown names with a clearer error than torch's
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
        if device.index is not None:
            ComputeDevice(device).module.set_device(device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"--device {name} cannot be used here: {str(error).splitlines()[0]}") from error
    return device


def build_methods(
    preset: Preset, phi: PhiSource | None, use: TeacherUse, student: Network, note: Note = no_note
) -> tuple[Method, ...]:
    """The methods of a preset for its batch, the run's φ, the teacher's sizes and both networks."""
    methods, teacher = bind_phi(fit_batch(preset, note), phi), use.teacher
    if teacher is not None and use.runs_teacher:
        methods = fit_sizes(methods, teacher, preset.schedule.lr_patch, note)
    return fit_methods(methods, None if teacher is None else teacher.network, student)


def speed_options(preset: Preset, teacher: Teacher | None) -> SpeedOptions:
    """The preset's speed options; a foreign teacher computes in fp32 unless the preset says otherwise."""
    options = preset.speed_options()
    if teacher is not None and teacher.network is None and options.teacher_precision == "auto":
        return replace(options, teacher_precision="fp32")
    return options


def _open_file(spec: RunSpec, file: TeacherFile | None, device: torch.device, context: Context) -> Teacher | None:
    """The teacher by which a quantised student is judged: that of the run that distilled it."""
    if file is None:
        return None
    trusted = spec.options.teacher.trust_code

    def read() -> Teacher:
        return load_at_scale(file.path, spec.student.scale, arch_options=file.options, trust_code=trusted)

    teacher = context.once("judge", file.path, file.sha256, read=read).move_to(device)
    _require_same("teacher", _file_alone(file), _file_alone(teacher_entry(teacher)))
    return teacher


def _file_alone(file: TeacherFile | None) -> TeacherFile | None:
    """The entry without the path, which may be another on another machine."""
    return None if file is None else file.model_copy(update={"path": None, "licence": None})


def _require_same(key: str, decided: Entry | None, read: Entry | None) -> None:
    """Refuse what is not what it was when the run was decided."""
    if decided != read:
        raise ChangedInput(key)


def teacher_entry(teacher: Teacher) -> TeacherFile | None:
    origin = teacher.origin
    if origin is None:
        return None
    return TeacherFile(
        path=origin.path.absolute(),
        sha256=origin.sha256,
        kind=teacher.backend,
        options=dict(origin.options),
        licence=licence_of(origin.path),
    )


def cache_entry(cache: TeacherCache | None) -> TeacherOutputs | None:
    return None if cache is None else TeacherOutputs.model_validate(cache.facts())


def images_entry(data: Data, labels: Goal) -> TrainingImages:
    return TrainingImages(
        origin=data.origin,
        labels="teacher" if labels == "teacher" else "HR",
        used=len(data.train),
        digest=data.train.digest(),
        skipped={str(image.path): image.reason for image in data.skipped},
        validation=data.validation_names,
    )


def degradation_entry(data: Data) -> DegradationSteps | None:
    steps = None if data.train.degraded is None else json.dumps(data.train.degraded.degradation.to_json())
    return None if steps is None else DegradationSteps.model_validate_json(steps)
