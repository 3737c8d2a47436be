"""The teacher of a run as its options say, and whether the recipe can use it."""

from __future__ import annotations

from collections.abc import Sequence

from compressor.assets import embedded_teacher
from compressor.base.context import Context, Note
from compressor.base.errors import UsageError
from compressor.teachers.reduced import ReducedTeacher, load_at_scale
from compressor.teachers.teacher import Teacher
from compressor.training.method import Method
from recipes.catalogue import teacher_needs
from srkd.options.compress import TeacherOptions
from srkd.runs.recipe import recipes_for_outputs, trains_teacher


def open_teacher(given: TeacherOptions, context: Context) -> Teacher:
    """The teacher of the options, read once for all runs of an operation."""
    return context.once("teacher", repr(given), read=lambda: _load_teacher(given, context.note))


def _load_teacher(given: TeacherOptions, note: Note) -> Teacher:
    """Load `--teacher`, or the embedded one, and announce the assumptions about it."""
    path = given.path
    if path is None:
        path = embedded_teacher()
        note("no --teacher: using the embedded teacher")
    arch_options = dict(given.arch_options or {})
    if given.teacher_scale is not None:
        arch_options["scale"] = given.teacher_scale
    teacher = load_at_scale(
        path, given.scale, arch_options=arch_options, limits=given.limits, trust_code=given.trust_code
    )
    if teacher.origin is not None:
        for assumption in teacher.origin.assumed:
            note(f"teacher: {assumption.field}={assumption.value} assumed ({assumption.why})")
        for line in teacher.origin.notes:
            note(f"teacher: {line}")
    if isinstance(teacher, ReducedTeacher):
        note(teacher.line())
    return teacher


def fit_sizes(methods: Sequence[Method], teacher: Teacher, lr_patch: int, note: Note) -> tuple[Method, ...]:
    """Refuse a teacher whose fixed size is not that of patches; adapt methods that give it images of other sizes."""
    sizes = teacher.own_sizes
    if sizes.fixed_size not in (None, (lr_patch, lr_patch)):
        width, height = sizes.fixed_size
        remedy = f"--lr-patch {width}" if width == height else "export it with free height and width"
        raise UsageError(
            f"the teacher takes images of {width}x{height} only, and the recipe's patches have {lr_patch}x{lr_patch}: "
            f"{remedy}"
        )
    fitted = []
    for method in methods:
        suited, text = method.fit_sizes(sizes, lr_patch, sizes.scale)
        if text is not None:
            note(text)
        fitted.append(suited)
    return tuple(fitted)


def require_fit(teacher: Teacher, recipe: str, methods: Sequence[Method]) -> None:
    """Refuse a teacher without the channels, weights or features that the recipe needs."""
    if teacher.descriptor.channels != 3:
        raise UsageError(
            "the teacher takes one channel, and compress trains on RGB images: use a teacher of 3 channels"
        )
    if isinstance(teacher, ReducedTeacher) and any(map(trains_teacher, methods)):
        own = teacher.model.descriptor.scale
        raise UsageError(
            f"recipe {recipe} trains its teacher, which enlarges x{own}, and the images are of x{teacher.scale}: take "
            "another recipe, such as logits or csd-lite, or a teacher of that scale"
        )
    if teacher.network is None and any(teacher_needs(method) == "network" for method in methods):
        raise UsageError(
            f"recipe {recipe} needs weights or features of its teacher, and the {teacher.backend} teacher "
            f"gives outputs only; recipes that take it: {', '.join(recipes_for_outputs())}"
        )
