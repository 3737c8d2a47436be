"""`srkd compress`: from a teacher and a recipe to everything that is decided before the first step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from compressor.assets import embedded_teacher
from compressor.data.prepare import DataChoice, prepare_data
from compressor.data.store import Border
from compressor.errors import UsageError
from compressor.progress import Announce, Progress, silent, unheard
from compressor.students import Select
from compressor.teacher import Teacher, load_teacher
from compressor.teacher_check import check_teacher
from compressor.training.run_folder import RunFolder
from recipes.catalogue import preset_names
from recipes.preset import Preset, load_preset
from srkd.student_choice import Init, Shape, choose_student
from srkd.training_run import CompressReport, TrainingRun


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
    select: Select | None = None,
    init_from: str | Path | None = None,
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
    shape = Shape(width, depth, student, init, select, _path(init_from))
    pupil = choose_student(master, preset, shape, seed, announce)
    if master is not None and needed:
        for line in check_teacher(master).lines():
            announce(line)
    choice = DataChoice(_path(data), _path(lr), _path(val), lr_border)
    images = prepare_data(
        choice, scale=pupil.network.spec.scale, lr_patch=preset.schedule.lr_patch, progress=progress, announce=announce
    )
    folder = RunFolder(Path(out))
    try:
        return TrainingRun(folder, preset, recipe, master, pupil, images, where, seed).go(progress, announce)
    finally:
        folder.close()


def require_fit(teacher: Teacher, recipe: str, preset: Preset) -> None:
    """Refuse what a teacher cannot give before anything is decoded or trained."""
    if teacher.descriptor.channels != 3:
        raise UsageError(
            "the teacher takes one channel, and compress trains on RGB images: use a teacher of 3 channels"
        )
    if teacher.network is not None:
        return
    teacher.recipes_for_outputs = recipes_for_outputs()
    if any(method.needs_network for method in preset.build_methods()):
        raise UsageError(
            f"recipe {recipe} needs weights or features of its teacher, and {teacher.called} teacher gives outputs "
            f"only; recipes that take it: {', '.join(teacher.recipes_for_outputs)}"
        )


def recipes_for_outputs() -> tuple[str, ...]:
    """Recipes whose teacher, if they want one, need only give outputs."""
    return tuple(
        name for name in preset_names() if not any(method.needs_network for method in load_preset(name).build_methods())
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
