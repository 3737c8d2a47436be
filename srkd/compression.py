"""`srkd compress`: from a teacher and a recipe to everything that is decided before the first step."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch

from compressor.assets import embedded_teacher
from compressor.base.cache_folder import DEFAULT_LIMIT
from compressor.base.choices import Border, Select
from compressor.base.context import Note, Progress, no_note, no_progress
from compressor.base.errors import SrkdError, UsageError
from compressor.base.processes import Processes
from compressor.base.rank import Rank
from compressor.data.prepare import Data, prepare_data
from compressor.data.teacher_cache import TeacherCache
from compressor.inference.teacher_check import check_teacher
from compressor.models.networks.base import Network
from compressor.teachers.teacher import Teacher, load_teacher
from compressor.training.distributed import own_device, processes
from compressor.training.events import Reference
from compressor.training.method import Method, fit_methods
from compressor.training.run_folder import FACTS, RunFolder
from compressor.training.speed import PLAIN_MODE, ExecutionMode, choose_execution_mode
from compressor.training.stage import TrainsJointly
from recipes.catalogue import preset_names, teacher_needs
from recipes.config.preset import Preset
from recipes.config.reading import load_preset, recipe_label
from recipes.looking import bind_phi
from recipes.phi import Resolved
from recipes.tap_check import tap_lines
from srkd import continuing
from srkd.caching import views_to_cache
from srkd.console import Console
from srkd.phi_choice import choose_phi_once, phi_in, phi_of, through_the_embedded
from srkd.request import Request, path_of
from srkd.student_choice import Init, Shape, StudentInit, choose_student, require_inside
from srkd.training_run import CompressReport, TrainingRun
from srkd.trials import Hands, TrialOptions, Trials, trial_options_of


def compress(
    teacher: str | Path | None = None,
    *,
    recipe: str = "logits",
    out: str | Path,
    data: str | Path | None = None,
    lr: str | Path | None = None,
    val: str | Path | None = None,
    lr_border: Border = "mirror",
    lr_only: str | Path | None = None,
    cache_size: str | int = DEFAULT_LIMIT,
    width: float | None = None,
    depth: float | None = None,
    student: str | None = None,
    init: Init | None = None,
    select: Select | None = None,
    init_from: str | Path | None = None,
    steps: int | None = None,
    seed: int = 10,
    device: str = "cpu",
    scale: int | None = None,
    arch_options: Mapping[str, Any] | None = None,
    settings: Sequence[str] = (),
    teacher_cache: bool = False,
    phi_weights: str | Path | None = None,
    with_baseline: bool = False,
    seeds: int = 1,
    progress: Progress = no_progress,
    announce: Note = no_note,
) -> CompressReport:
    """Train a student of `teacher` by `recipe`; no teacher means the embedded one, no data the embedded photos.

    `with_baseline` also trains the same student on the same batches without distillation; `seeds` repeats it all.
    """
    request = Request.of(
        {
            "teacher": teacher,
            "recipe": recipe,
            "data": data,
            "lr": lr,
            "val": val,
            "lr_border": lr_border,
            "width": width,
            "depth": depth,
            "student": student,
            "init": init,
            "select": select,
            "init_from": init_from,
            "steps": steps,
            "seed": seed,
            "device": device,
            "scale": scale,
            "arch_options": arch_options or {},
            "settings": settings,
            "lr_only": lr_only,
            "cache_size": cache_size,
            "teacher_cache": teacher_cache,
            "phi_weights": phi_weights,
        }
    )
    with processes(Rank.here(), Console().error) as group:
        if not group.leads:
            progress, announce = no_progress, no_note
        wish = _possible(TrialOptions(with_baseline, seeds), group)
        if continuing.begun_anew(group, Path(out), dataclasses.asdict(request)):
            announce(f"begun anew by torchrun: continuing {out}")
            return _resume(group, Path(out), progress, announce)
        continuing.require_new_folder(Path(out), group)
        phi = choose_phi_once(request, group, progress, announce)
        decided = _decided(request, group, progress, announce, phi)
        if wish.several:
            return Trials.of(Path(out), request, wish, decided, Hands(decide, _single, progress, announce)).go()
        folder = continuing.run_folder(Path(out), group)
        return TrainingRun(folder, dataclasses.asdict(request), *decided, group).go(progress, announce)


def resume(run: str | Path, *, progress: Progress = no_progress, announce: Note = no_note) -> CompressReport:
    """Continue an unfinished run, or a plan of runs, from the last saved state, as if it had never stopped."""
    with processes(Rank.here(), Console().error) as group:
        if not group.leads:
            progress, announce = no_progress, no_note
        return _resume(group, Path(run), progress, announce)


def _resume(group: Processes, run: Path, progress: Progress, announce: Note) -> CompressReport:
    facts = continuing.unfinished(run, group)
    try:
        request = Request(**facts["request"])
    except (KeyError, TypeError) as error:
        raise SrkdError(f"--resume {run}: run.json does not say how the run was started ({error})") from error
    wish = _possible(trial_options_of(facts), group)
    phi = phi_in(facts)
    decided = _decided(request, group, progress, announce, phi, continuing.pace_of(facts))
    if wish.several:
        return Trials.of(run, request, wish, decided, Hands(decide, _single, progress, announce)).go()
    training = TrainingRun(
        continuing.run_folder(run, group, resumed=True), dataclasses.asdict(request), *decided, group
    )
    group.run_on_all(lambda: continuing.require_same(facts, training.facts(), run))
    return training.go(progress, announce)


def _possible(wish: TrialOptions, group: Processes) -> TrialOptions:
    if wish.several and not group.alone:
        raise UsageError("--with-baseline and --seeds run in one process: start them without torchrun")
    return wish


def _single(request: Request, run: Path, decided: Decided, progress: Progress, announce: Note) -> CompressReport:
    """One run of a plan, begun or, where an earlier process left it unfinished, continued."""
    begun = (run / FACTS).is_file()
    training = TrainingRun(RunFolder(run, resumed=begun, part_of=run.parent), dataclasses.asdict(request), *decided)
    if begun:
        continuing.require_same(training.folder.read_facts(), training.facts(), run)
    return training.go(progress, announce)


class Networks(NamedTuple):
    """The recipe, and the teacher and student that follow from a request, before any image is read."""

    preset: Preset
    methods: tuple[Method, ...]
    teacher: Teacher | None
    pupil: StudentInit
    needed: bool
    """Whether the run asks anything of the teacher."""


class Decided(NamedTuple):
    """Everything that follows from a request before the first step."""

    preset: Preset
    methods: tuple[Method, ...]
    recipe: str
    teacher: Teacher | None
    pupil: StudentInit
    data: Data
    device: torch.device
    seed: int
    cache: TeacherCache | None
    pace: ExecutionMode
    reference: Reference | None = None


def decide(
    request: Request,
    progress: Progress,
    announce: Note,
    phi: Resolved | None = None,
    pace: ExecutionMode | None = None,
    shared: Decided | None = None,
    group: Processes | None = None,
) -> Decided:
    """Load the teacher, build the student, read the images; every mistake is told before anything is written.

    A run that is continued keeps the pace it began at. Another run of the same plan shares teacher, images, φ and pace.
    """
    group = group or Processes()
    where, choice = device_of(own_device(request.device, group.place)), request.images()
    preset, methods, master, pupil, needed = choose_networks(request, announce, phi, shared, group.place)
    views = views_to_cache(request.recipe, methods, lr_only=choice.lr_only is not None) if request.teacher_cache else ()
    if master is not None and needed and shared is None:
        for line in check_teacher(master).lines():
            announce(line)
    scale, lr_patch = pupil.network.spec.scale, preset.schedule.lr_patch
    if shared is None:
        images = prepare_data(choice, scale=scale, lr_patch=lr_patch, progress=progress, announce=announce)
    else:
        images = shared.data
    cache = None
    if views and master is not None:
        cache = TeacherCache.plan(
            master,
            images.train,
            views,
            folder=choice.cache(),
            lr_patch=lr_patch,
            precision=preset.schedule.teacher_precision,
        )
    if pace is None and shared is not None:
        pace = shared.pace
    if pace is None and group.leads:
        pace = _choose_pace(preset, pupil.network, where, announce, len(group.place.share(preset.schedule.batch)))
    pace = pace or PLAIN_MODE
    return Decided(
        preset, methods, recipe_label(request.recipe), master, pupil, images, where, request.seed, cache, pace
    )


def choose_networks(
    request: Request,
    announce: Note,
    phi: Resolved | None = None,
    shared: Decided | None = None,
    place: Rank | None = None,
) -> Networks:
    """Read the recipe, load the teacher, build the student, and refuse what does not fit together."""
    preset = load_preset(request.recipe, request.settings)
    if request.steps is not None:
        preset = preset.with_steps(request.steps)
    place = place or Rank()
    batch = len(place.share(preset.schedule.batch))
    methods = bind_phi(preset.build_methods(), phi if shared is None else phi_of(shared.methods))
    # Without HR images the teacher gives the labels, whatever the recipe.
    needed = any(teacher_needs(method) != "nothing" for method in methods) or request.lr_only is not None
    master = None if shared is None else shared.teacher
    if shared is None and (request.teacher is not None or needed or request.student is None):
        master = _load_teacher(request.teacher, request.scale, request.arch_options, announce)
        require_fit(master, request.recipe, methods)
    methods = through_the_embedded(methods, master, announce)
    start = path_of(request.init_from)
    shape = Shape(request.width, request.depth, request.student, request.init, request.select, start)
    pupil = choose_student(master, preset, shape, request.seed, announce)
    preset = preset.at_scale(pupil.network.spec.scale)
    own, side = None if master is None else master.network, preset.schedule.lr_patch
    methods = fit_methods(methods, own, pupil.network)
    for method in methods:
        if isinstance(method, TrainsJointly):
            require_inside(pupil, method.name, labelled=request.lr_only is None)
    for line in tap_lines(methods, own, pupil.network, batch=batch, lr_patch=side, processes=place.world):
        announce(line)
    return Networks(preset, methods, master, pupil, needed)


def _decided(
    request: Request,
    group: Processes,
    progress: Progress,
    announce: Note,
    phi: Resolved | None,
    pace: ExecutionMode | None = None,
) -> Decided:
    """By every process for itself, but for the pace, which one measures."""
    decided = group.run_on_all(lambda: decide(request, progress, announce, phi, pace, group=group))
    return decided._replace(pace=group.from_leader(decided.pace))


def _choose_pace(preset: Preset, student: Network, device: torch.device, announce: Note, batch: int) -> ExecutionMode:
    rule = preset.schedule
    pace = choose_execution_mode(
        student, steps=rule.steps, batch=batch, lr_patch=rule.lr_patch, device=device, asked=preset.asked()
    )
    announce(pace.line(rule.lr_patch))
    return pace


def require_fit(teacher: Teacher, recipe: str, methods: Sequence[Method]) -> None:
    """Refuse what a teacher cannot give before anything is decoded or trained."""
    if teacher.descriptor.channels != 3:
        raise UsageError(
            "the teacher takes one channel, and compress trains on RGB images: use a teacher of 3 channels"
        )
    if teacher.network is not None:
        return
    if any(teacher_needs(method) == "network" for method in methods):
        through = phi_of(methods)
        own = "" if through is None or through.kind != "teacher" else f" (phi is {through.how})"
        raise UsageError(
            f"recipe {recipe} needs weights or features of its teacher{own}, and the {teacher.backend} teacher gives "
            f"outputs only; recipes that take it: {', '.join(recipes_for_outputs())}"
        )


def recipes_for_outputs() -> tuple[str, ...]:
    """Recipes whose teacher, if they want one, need only give outputs; one that does not load is left out."""
    found = []
    for name in preset_names():
        with suppress(SrkdError):
            if not any(teacher_needs(method) == "network" for method in load_preset(name).build_methods()):
                found.append(name)
    return tuple(found)


def _load_teacher(
    path: str | Path | None, scale: int | None, arch_options: Mapping[str, Any] | None, announce: Note
) -> Teacher:
    if path is None:
        path = embedded_teacher()
        announce("no --teacher: using the embedded teacher")
    teacher = load_teacher(path, scale=scale, arch_options=arch_options)
    if teacher.origin is not None:
        for assumption in teacher.origin.assumed:
            announce(f"teacher: {assumption.field}={assumption.value} assumed ({assumption.why})")
        for note in teacher.origin.notes:
            announce(f"teacher: {note}")
    return teacher


def device_of(name: str) -> torch.device:
    """The device, or one line when it is not there."""
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
        if device.type == "cuda" and device.index is not None:
            torch.cuda.set_device(device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"--device {name} cannot be used here: {str(error).splitlines()[0]}") from error
    return device
