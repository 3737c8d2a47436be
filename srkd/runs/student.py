"""The student of a run before its first step: its shape, the origin of its weights, and the network itself."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from compressor.base.choices import BaselineName, Init, Select
from compressor.base.context import Context, Note
from compressor.base.errors import SrkdError, UsageError
from compressor.models.fitting.fit import is_same_kind, require_solvable
from compressor.models.networks.base import Network, Spec
from compressor.models.networks.registry import architecture, build, quantise
from compressor.models.networks.slices import student_cuts
from compressor.models.quantisation.description import Quantisation
from compressor.models.students.init_from import initialise_from
from compressor.models.students.principal import can_be_turned
from compressor.models.students.students import (
    cut_student,
    parse_student,
    random_student,
    reordered,
    smaller_spec,
    width_hint,
)
from compressor.teachers.teacher import Teacher
from compressor.training.method import Method, quantisation_of
from recipes.config.preset import Preset
from srkd.options.compress import CompressOptions
from srkd.record.run_spec import StudentStart


@dataclass(frozen=True)
class FirstStudent:
    """The student before its first step."""

    network: Network
    start: StudentStart
    plain_slice: Network | None = None
    """The leading slice of the teacher for comparison, if the student starts from a better one; else None."""
    turned: Network | None = None
    """The teacher with the channels first that the student keeps, if it keeps others than the leading ones."""

    @property
    def is_computed(self) -> bool:
        """True if the student starts from weights that are better than random ones or a plain slice."""
        return self.start.init == "fit" or self.plain_slice is not None


def choose_student(
    teacher: Teacher | None, preset: Preset, options: CompressOptions, note: Note
) -> tuple[Spec, StudentStart]:
    """The student's shape and the origin of its weights by the options, else the preset; note hints."""
    donor = None if teacher is None else teacher.donor
    init = options.student.init or _default_init(teacher, preset, options, note)
    select = _choose_select(init, donor, preset, options, note)
    if init == "fit" and options.student.init_from is not None:
        raise UsageError(f"--init-from {options.student.init_from} gives the student its weights: leave out --init fit")
    published = _published_student(donor, preset, options, note)
    shape = published if options.student.student is None else options.student.student
    spec = _cut_spec(teacher, preset, options, note) if shape is None else _given_spec(shape, init, options, teacher)
    if init == "fit" and teacher is not None:
        require_solvable(teacher, spec)
    with torch.device("meta"):
        channels = build(spec).descriptor.channels
    if channels != 3:
        raise UsageError(
            f"the student has {channels} channels, and compress trains on RGB images: add channels=3 to --student"
        )
    hint, width = width_hint(spec), spec.to_dict().get("width")
    if hint is not None and (donor is None or donor.spec.to_dict().get("width") != width):
        note(hint)
    return spec, StudentStart(init=init, select=select, init_from=None, is_cut=shape is None)


def first_student(
    spec: Spec,
    start: StudentStart,
    teacher: Teacher | None,
    quantisation: Quantisation | None,
    seed: int,
    context: Context,
    init_from: str | Path | None,
) -> FirstStudent:
    """The student with its first weights; those of a fit follow later, on the run's own images. `init_from` is the file
    from which it takes weights of equal name and shape; the start that is returned says which.
    """
    source = None if teacher is None else teacher.donor
    turned, plain_slice = None, None
    if source is not None and start.select != "leading":
        turned = context.once(
            "turned", id(source), spec, start.select, read=lambda: reordered(source, spec, start.select)
        )
    if start.init == "inherit" and teacher is not None:
        network = cut_student(turned or source or teacher.require_network("weights"), spec)
    elif start.is_cut and source is not None:
        # A fit replaces these weights.
        is_cut = start.init == "fit" and teacher is not None and has_donor(teacher)
        network = cut_student(source, spec) if is_cut else random_student(source, spec, seed)
    else:
        network = build(spec, seed=seed)
    if init_from is not None:
        report = initialise_from(network, init_from)
        if start.init_from is not None and report.sha256 != start.init_from.sha256:
            raise SrkdError(f"--init-from {report.path}: the file is not what it was when the run began")
        start = start.model_copy(update={"init_from": report})
    if source is not None and (start.init == "fit" or start.select == "principal"):
        with suppress(SrkdError):  # a student of another kind
            plain_slice = cut_student(source, spec)
    if quantisation is not None:
        network = quantise(network, quantisation)
    return FirstStudent(network, start, plain_slice, turned)


def has_donor(teacher: Teacher) -> bool:
    """Whether there is a network of the scale of the teacher's images, from which students can be cut."""
    return teacher.donor is not None and teacher.donor.spec.scale == teacher.descriptor.scale


def is_solved_across(spec: Spec, start: StudentStart, teacher: Teacher | None) -> bool:
    known = None if teacher is None or teacher.donor is None else teacher.donor.spec
    return start.init == "fit" and (known is None or not is_same_kind(known, spec))


def _published_student(teacher: Network | None, preset: Preset, options: CompressOptions, note: Note) -> str | None:
    """The student that is published for this teacher, unless the options give a shape."""
    given = (options.student.student, options.student.width, options.student.depth)
    entry = None if teacher is None else preset.student.published_for(teacher.spec)
    if entry is None or any(value is not None for value in given):
        return None
    note(f"student: {entry.student}, as published for this teacher")
    if entry.start_scale is not None and options.student.init_from is None:
        note(
            f"student: random weights; the published run starts from its student of x{entry.start_scale}: train that "
            f"with a teacher of x{entry.start_scale} and the same recipe, then add --init-from FILE"
        )
    return entry.student


def _default_init(teacher: Teacher | None, preset: Preset, options: CompressOptions, note: Note) -> Init:
    """The recipe's start, or the nearest one that the student and its teacher allow."""
    init, given = preset.student.init, options.student.student
    network = None if teacher is None else teacher.donor
    # --select or --init-from replace a fit.
    is_replaced = options.student.select is not None or options.student.init_from is not None
    if given is None:
        if init == "fit" and is_replaced:
            return "inherit"
        if init == "fit" and network is not None and architecture(network.spec.arch).linear is None:
            note(f"the student is cut from the teacher: a {network.spec.arch} cannot be solved for")
            return "inherit"
        if init == "inherit" and teacher is not None and not (has_donor(teacher) or preset.student.init_required):
            scale = teacher.descriptor.scale
            note(f"the student is solved for: no x{scale} can be cut from this {teacher.architecture}")
            return "fit"
        return init
    if preset.student.init_required and not is_replaced:
        _require_own_start(init, teacher, given)
        return init
    if teacher is None or init == "random" or (init == "fit" and is_replaced):
        return "random"
    if init == "inherit":
        is_alike = network is not None and _shape_of(given, teacher).arch == network.spec.arch
        advice = "; --init inherit cuts them from the teacher" if is_alike else ""
        note(f"--student: random weights, where the recipe would inherit{advice}")
        return "random"
    spec = _shape_of(given, teacher)
    try:
        require_solvable(teacher, spec)
    except SrkdError as error:
        note(f"--student: random weights ({error})")
        return "random"
    return "fit"


def _shape_of(text: str, teacher: Teacher) -> Spec:
    """The spec of `--student`, with the teacher's fields where it is of the teacher's kind."""
    return parse_student(text, like=_spec_at_scale(teacher), scale=teacher.descriptor.scale)


def _spec_at_scale(teacher: Teacher) -> Spec | None:
    """The spec of the teacher's network at the scale of its images."""
    return None if teacher.network is None else replace(teacher.network.spec, scale=teacher.descriptor.scale)


def require_start(start: Init | BaselineName, teacher: Teacher | None, spec: Spec | None) -> None:
    """Refuse a start that cannot be made of the teacher: "fit" solves for the student, and "inherit" cuts it out."""
    if teacher is None or spec is None:
        raise SrkdError("there is no teacher")
    if start == "fit":
        require_solvable(teacher, spec)
    elif start == "inherit":
        student_cuts((teacher.donor or teacher.require_network("weights")).spec.deployed, spec.deployed)


def _require_own_start(init: Init, teacher: Teacher | None, student: str) -> None:
    """Refuse a recipe that is its start, for a student that cannot be cut from the teacher, or solved for."""
    spec = None if teacher is None else _shape_of(student, teacher)
    try:
        require_start(init, teacher, spec)
    except SrkdError as error:
        does, other = ("solves for it", "logits") if init == "fit" else ("cuts it from its teacher", "scratch")
        raise UsageError(
            f"--student {student}: the recipe {init} {does}, which is impossible ({error}); "
            f"--recipe {other} trains it from random weights"
        ) from error


def _choose_select(init: Init, teacher: Network | None, preset: Preset, options: CompressOptions, note: Note) -> Select:
    """Which of the teacher's channels an inherited student keeps."""
    if options.student.select is not None and init != "inherit":
        remedy = "leave it out, as there is no teacher to inherit from" if teacher is None else "add --init inherit"
        raise UsageError(f"--select {options.student.select} chooses what is inherited: {remedy}")
    select = options.student.select or (preset.student.select if init == "inherit" else "leading")
    if (
        select == "principal"
        and options.student.select is None
        and teacher is not None
        and not can_be_turned(teacher.spec)
    ):
        note(f"select: the leading channels, as the stream of a {teacher.spec.arch} cannot be turned")
        return "leading"
    return select


def _cut_spec(teacher: Teacher | None, preset: Preset, options: CompressOptions, note: Note) -> Spec:
    """The shape of a student that is cut from its teacher by width and depth."""
    if teacher is None:
        raise UsageError("without --student the student is cut from a teacher: add --teacher FILE or --student SPEC")
    rule, given = preset.student, options.student
    shares = {"width": (given.width, rule.width), "depth": (given.depth, rule.depth)}
    for name, other in (("depth", "width"), ("width", "depth")):
        (share, _), (other_share, usual) = shares[name], shares[other]
        if share is not None and other_share is None and usual < 1:
            reduces = f"halves the {other}" if usual == 0.5 else f"takes {usual:g} of the {other}"
            note(f"--{name} {share:g}: the recipe also {reduces}: add --{other} 1 to keep it")
    spec = _spec_at_scale(teacher)
    if spec is None:
        scale = teacher.descriptor.scale
        raise UsageError(
            f"no student can be cut from the {teacher.backend} teacher: give its shape, "
            f"--student compact:width=32,depth=8,scale={scale}"
        )
    width, depth = (usual if share is None else share for share, usual in shares.values())
    return smaller_spec(spec, width=width, depth=depth)


def _given_spec(text: str, init: Init, options: CompressOptions, teacher: Teacher | None) -> Spec:
    if options.student.width is not None or options.student.depth is not None:
        raise UsageError("--student gives the whole shape: leave out --width and --depth")
    if teacher is None and init != "random":
        raise UsageError(f"--init {init} makes the student of its teacher: add --teacher FILE")
    wanted = options.teacher.scale if teacher is None else teacher.descriptor.scale
    spec = parse_student(text, scale=wanted) if teacher is None else _shape_of(text, teacher)
    if wanted not in (None, spec.scale):
        raise UsageError(f"--student is for x{spec.scale}, and --scale for x{wanted}: leave one of them out")
    return spec


def choose_quantisation(start: FirstStudent, methods: Sequence[Method], teacher: Teacher | None) -> Quantisation | None:
    quantisation = quantisation_of(methods)
    if quantisation is None:
        return None
    of_teacher = None if teacher is None or teacher.network is None else teacher.network.quantisation
    if of_teacher is not None:
        raise UsageError(
            f"the teacher is quantised itself ({of_teacher.line()}): give the float network that it was made from"
        )
    if start.is_computed:
        raise UsageError(
            f"{quantisation.method} is the last stage and starts from trained weights, not from ones that are solved "
            f"for or turned: distil first (--recipe logits --then {quantisation.method}), or --init inherit"
        )
    return quantisation


def whole_teacher(teacher: Teacher, student: FirstStudent, context: Context) -> Teacher:
    """The teacher inside which the student is trained, reordered so that the student's channels come first.

    It is one object for all runs that turn it alike, as the images that it enlarges for validation are kept by it.
    """
    turned = student.turned
    if turned is None:
        return teacher
    return context.once("whole teacher", id(turned), read=lambda: Teacher(turned, teacher.origin))


def require_inside(student: StudentStart, method: str, *, has_labels: bool) -> None:
    """Refuse options that have no meaning for a student trained on slices of the teacher's own weights."""
    inside = f"{method} trains the student on slices of the teacher's own weights"
    if student.init != "inherit":
        others = "random" if student.init == "random" else "others"
        raise UsageError(f"{inside}, and these would be {others}: --init inherit")
    if student.init_from is not None:
        raise UsageError(f"{inside}: leave out --init-from, or give {student.init_from.path} as --teacher")
    if not has_labels:
        raise UsageError(f"--lr-only: {method} trains its teacher, which then cannot be the only label; use csd-lite")
