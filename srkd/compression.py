"""`srkd compress`: from a teacher and a recipe to everything that is decided before the first step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from compressor.assets import embedded_teacher
from compressor.checkpoints.load import Loaded, load_checkpoint
from compressor.data.prepare import DataChoice, prepare_data
from compressor.data.store import Border
from compressor.errors import UsageError
from compressor.networks.base import Network
from compressor.networks.registry import build
from compressor.progress import Announce, Progress, silent, unheard
from compressor.students import build_student, parse_student
from compressor.training.run_folder import RunFolder
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
    loaded = None
    if teacher is not None or needed or student is None:
        loaded = _load_teacher(teacher, scale, arch_options, announce)
    pupil = make_student(loaded, preset, Shape(width, depth, student, init), seed)
    choice = DataChoice(_path(data), _path(lr), _path(val), lr_border)
    images = prepare_data(
        choice, scale=pupil.spec.scale, lr_patch=preset.schedule.lr_patch, progress=progress, announce=announce
    )
    folder = RunFolder(Path(out))
    try:
        return TrainingRun(folder, preset, recipe, loaded, pupil, images, where, seed).go(progress, announce)
    finally:
        folder.close()


@dataclass(frozen=True)
class Shape:
    """What the user said about the student; what is None the preset decides."""

    width: float | None = None
    depth: float | None = None
    spec: str | None = None
    init: Init | None = None


def make_student(loaded: Loaded | None, preset: Preset, shape: Shape, seed: int) -> Network:
    """The student by its own spec, or cut from the teacher by width and depth."""
    if shape.spec is not None:
        return _student_by_spec(shape, loaded, seed)
    if loaded is None:
        raise UsageError("a student without --student is cut from a teacher: add --teacher FILE or --student SPEC")
    rule = preset.student
    return build_student(
        loaded.network,
        width=rule.width if shape.width is None else shape.width,
        depth=rule.depth if shape.depth is None else shape.depth,
        init=rule.init if shape.init is None else shape.init,
        seed=seed,
    )


def _student_by_spec(shape: Shape, loaded: Loaded | None, seed: int) -> Network:
    if shape.width is not None or shape.depth is not None or shape.init == "inherit":
        raise UsageError("--student gives the whole shape: leave out --width, --depth and --init inherit")
    spec = parse_student(shape.spec or "")
    if loaded is not None and spec.scale != loaded.network.spec.scale:
        raise UsageError(f"the student is for x{spec.scale}, the teacher for x{loaded.network.spec.scale}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(spec)


def _load_teacher(
    path: str | Path | None, scale: int | None, arch_options: Mapping[str, Any] | None, announce: Announce
) -> Loaded:
    if path is None:
        path = embedded_teacher()
        announce("no --teacher: using the embedded teacher")
    loaded = load_checkpoint(Path(path), scale=scale, arch_options=arch_options)
    for assumption in loaded.assumed:
        announce(f"teacher: {assumption.field}={assumption.value} assumed ({assumption.why})")
    return loaded


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
