"""The student of a run: cut from the teacher, or of a shape of its own; and the weights it starts from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from compressor.base.choices import Select
from compressor.base.context import Note
from compressor.base.errors import UsageError
from compressor.models.init_from import Taken, start_from
from compressor.models.networks.base import Network, Spec
from compressor.models.networks.registry import build
from compressor.models.students import build_student, parse_student, student_of_spec, width_hint
from compressor.teachers.teacher import Teacher
from recipes.config.preset import Preset
from srkd.console import json_value

Init = Literal["inherit", "random"]


@dataclass(frozen=True)
class Shape:
    """What the user said about the student; what is None the preset decides."""

    width: float | None = None
    depth: float | None = None
    spec: str | None = None
    init: Init | None = None
    select: Select | None = None
    init_from: Path | None = None


@dataclass(frozen=True)
class StudentInit:
    """The student before its first step, and where its weights come from."""

    network: Network
    init: Init
    select: Select
    init_from: Taken | None = None

    def facts(self) -> dict[str, Any]:
        """For run.json."""
        taken = None if self.init_from is None else json_value(self.init_from)
        return {"init": self.init, "select": self.select, "init_from": taken}


def choose_student(teacher: Teacher | None, preset: Preset, shape: Shape, seed: int, announce: Note) -> StudentInit:
    """The student, with hints and what `--init-from` gave said aloud."""
    network, init = _by_spec(shape, teacher, seed) if shape.spec is not None else _cut(teacher, preset, shape, seed)
    channels = network.descriptor.channels
    if channels != 3:
        raise UsageError(f"the student takes {channels} channel, and compress trains on RGB images: use 3 channels")
    if shape.spec is not None and shape.init is None and preset.student.init == "inherit":
        announce("--student: random weights, where the recipe would inherit; --init inherit cuts them from the teacher")
    original = None if teacher is None or teacher.network is None else teacher.network.spec
    hint = width_hint(network.spec)
    if hint is not None and (original is None or _width(original) != _width(network.spec)):
        announce(hint)
    taken = None
    if shape.init_from is not None:
        taken = start_from(network, shape.init_from)
        for line in taken.lines():
            announce(line)
    return StudentInit(network, init, shape.select or "leading", taken)


def require_inside(pupil: StudentInit, method: str, *, labelled: bool) -> None:
    """Refuse what means nothing where the student is trained inside the teacher, on the teacher's own weights."""
    inside = f"{method} trains the student on slices of the teacher's own weights"
    if pupil.init != "inherit":
        raise UsageError(f"{inside}, and these would be random: --init inherit")
    if pupil.select != "leading":
        raise UsageError(f"{inside}, the leading ones: leave out --select {pupil.select}")
    if pupil.init_from is not None:
        raise UsageError(f"{inside}: leave out --init-from, or give {pupil.init_from.path} as --teacher")
    if not labelled:
        raise UsageError(f"--lr-only: {method} trains its teacher, which then cannot be the only label; use csd-lite")


def _cut(teacher: Teacher | None, preset: Preset, shape: Shape, seed: int) -> tuple[Network, Init]:
    """By width and depth, from one of our networks."""
    if teacher is None:
        raise UsageError("a student without --student is cut from a teacher: add --teacher FILE or --student SPEC")
    if teacher.network is None:
        scale = teacher.descriptor.scale
        raise UsageError(
            f"no student can be cut from the {teacher.backend} teacher: give its shape, "
            f"--student compact:width=32,depth=8,scale={scale}"
        )
    rule = preset.student
    init = rule.init if shape.init is None else shape.init
    student = build_student(
        teacher.network,
        width=rule.width if shape.width is None else shape.width,
        depth=rule.depth if shape.depth is None else shape.depth,
        init=init,
        seed=seed,
        select=_select(shape, init),
    )
    return student, init


def _by_spec(shape: Shape, teacher: Teacher | None, seed: int) -> tuple[Network, Init]:
    """Of a shape of its own: random, or cut where `--init inherit` says so and it is the teacher's kind."""
    if shape.width is not None or shape.depth is not None:
        raise UsageError("--student gives the whole shape: leave out --width and --depth")
    text, init = shape.spec or "", shape.init or "random"
    select = _select(shape, init)
    scale = None if teacher is None else teacher.descriptor.scale
    if init == "inherit":
        if teacher is None or teacher.network is None:
            raise UsageError("--init inherit cuts the student from its teacher: add --teacher FILE of a known network")
        spec = parse_student(text, like=teacher.network.spec, scale=scale)
        return student_of_spec(teacher.network, spec, select=select), init
    spec = parse_student(text, scale=scale)
    if scale is not None and spec.scale != scale:
        raise UsageError(f"the student is for x{spec.scale}, the teacher for x{scale}")
    student = build(spec, seed=seed)
    if teacher is not None and student.descriptor.channels != teacher.descriptor.channels:
        raise UsageError(
            f"the student has {student.descriptor.channels} channels, the teacher {teacher.descriptor.channels}: "
            f"add channels={teacher.descriptor.channels} to --student"
        )
    return student, init


def _select(shape: Shape, init: Init) -> Select:
    """The chosen rule; asking for one where nothing is inherited is a mistake."""
    if shape.select is not None and init == "random":
        raise UsageError(f"--select {shape.select} chooses what is inherited: add --init inherit")
    return shape.select or "leading"


def _width(spec: Spec) -> object:
    return spec.to_dict().get("width")
