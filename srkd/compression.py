"""`srkd compress`: from a teacher and a recipe to everything that is decided before the first step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from compressor.assets import embedded_teacher
from compressor.data.prepare import DataChoice, prepare_data
from compressor.data.store import Border
from compressor.errors import UsageError
from compressor.networks.base import Network
from compressor.networks.registry import build
from compressor.progress import Announce, Progress, silent, unheard
from compressor.students import build_student, parse_student
from compressor.teacher import Teacher, load_teacher
from compressor.teacher_check import check_teacher
from compressor.training.run_folder import RunFolder
from recipes.catalogue import preset_names
from recipes.preset import Preset, load_preset
from srkd.training_run import CompressReport, TrainingRun

Init = Literal["inherit", "random"]


def compress(
    teacher: str | Path | None = None,
    *,
    recipe: str = "logits",
    out: str | Path,
    data: str | Path | None = None,
    lr: str | Path | None = None,
    val: str | Path | None = None,
    lr_border: Border = "mirror",
    width: float | None = None,
    depth: float | None = None,
    student: str | None = None,
    init: Init | None = None,
    steps: int | None = None,
    seed: int = 10,
    device: str = "cpu",
    scale: int | None = None,
    arch_options: Mapping[str, Any] | None = None,
    settings: Sequence[str] = (),
    progress: Progress = silent,
    announce: Announce = unheard,
) -> CompressReport:
    """Train a student of `teacher` by `recipe`; no teacher means the embedded one, no data the embedded photos."""
    where = _device(device)
    preset = load_preset(recipe, settings)
    if steps is not None:
        preset = preset.with_steps(steps)
    needed = any(method.needs_teacher for method in preset.build_methods())
    master = None
    if teacher is not None or needed or student is None:
        master = _load_teacher(teacher, scale, arch_options, announce)
        require_fit(master, recipe, preset)
    pupil = make_student(master, preset, Shape(width, depth, student, init), seed)
    if master is not None and needed:
        for line in check_teacher(master).lines():
            announce(line)
    choice = DataChoice(_path(data), _path(lr), _path(val), lr_border)
    images = prepare_data(
        choice, scale=pupil.spec.scale, lr_patch=preset.schedule.lr_patch, progress=progress, announce=announce
    )
    folder = RunFolder(Path(out))
    try:
        return TrainingRun(folder, preset, recipe, master, pupil, images, where, seed).go(progress, announce)
    finally:
        folder.close()


@dataclass(frozen=True)
class Shape:
    """What the user said about the student; what is None the preset decides."""

    width: float | None = None
    depth: float | None = None
    spec: str | None = None
    init: Init | None = None


def make_student(teacher: Teacher | None, preset: Preset, shape: Shape, seed: int) -> Network:
    """The student by its own spec, or cut from the teacher by width and depth."""
    if shape.spec is not None:
        return _student_by_spec(shape, teacher, seed)
    if teacher is None:
        raise UsageError("a student without --student is cut from a teacher: add --teacher FILE or --student SPEC")
    if teacher.network is None:
        scale = teacher.descriptor.scale
        raise UsageError(
            f"no student can be cut from a {teacher.kind} teacher: give its shape, "
            f"--student compact:width=32,depth=8,scale={scale}"
        )
    rule = preset.student
    return build_student(
        teacher.network,
        width=rule.width if shape.width is None else shape.width,
        depth=rule.depth if shape.depth is None else shape.depth,
        init=rule.init if shape.init is None else shape.init,
        seed=seed,
    )


def _student_by_spec(shape: Shape, teacher: Teacher | None, seed: int) -> Network:
    if shape.width is not None or shape.depth is not None or shape.init == "inherit":
        raise UsageError("--student gives the whole shape: leave out --width, --depth and --init inherit")
    spec = parse_student(shape.spec or "")
    if teacher is not None and spec.scale != teacher.descriptor.scale:
        raise UsageError(f"the student is for x{spec.scale}, the teacher for x{teacher.descriptor.scale}")
    student = build(spec, seed=seed)
    if teacher is not None and student.descriptor.channels != teacher.descriptor.channels:
        raise UsageError(
            f"the student has {student.descriptor.channels} channels, the teacher {teacher.descriptor.channels}: "
            f"add channels={teacher.descriptor.channels} to --student"
        )
    return student


def require_fit(teacher: Teacher, recipe: str, preset: Preset) -> None:
    """A foreign teacher gives outputs only: refuse what needs more before anything is decoded or trained."""
    if teacher.network is not None:
        return
    others = recipes_without_features()
    teacher.recipes_without_features = others
    if preset.student.init == "inherit" or any(method.needs_features for method in preset.build_methods()):
        what = "cuts the student from its teacher" if preset.student.init == "inherit" else "needs features"
        raise UsageError(
            f"recipe {recipe} {what}, and a {teacher.kind} teacher gives outputs only; "
            f"recipes that take it: {', '.join(others)}"
        )


def recipes_without_features() -> tuple[str, ...]:
    """Recipes whose teacher, if they want one, need only give outputs."""
    presets = {name: load_preset(name) for name in preset_names()}
    return tuple(
        name
        for name, preset in presets.items()
        if preset.student.init != "inherit" and not any(method.needs_features for method in preset.build_methods())
    )


def _load_teacher(
    path: str | Path | None, scale: int | None, arch_options: Mapping[str, Any] | None, announce: Announce
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


def _device(name: str) -> torch.device:
    """The device, or one line when it is not there."""
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"--device {name} cannot be used here: {str(error).splitlines()[0]}") from error
    return device


def _path(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path)
