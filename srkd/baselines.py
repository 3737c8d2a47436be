"""What a recipe is held against: the same student without distillation, from random weights and from a slice.

A baseline is a request like any other, so that its run folder is one like any other: the recipe's whole schedule, its
student, seed, images and device, with L1 to the ground truth as the only loss.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compressor.base.context import Note
from compressor.base.errors import SrkdError, UsageError
from compressor.models.students import student_cuts, student_text

if TYPE_CHECKING:
    from recipes.config.preset import Preset
    from srkd.compression import Decided
    from srkd.request import Request
    from srkd.student_choice import Init

PIXEL_ONLY = frozenset({"scratch", "inherit"})
"""Methods whose loss is L1 to the ground truth and nothing else: what they differ in is where the student starts."""


@dataclass(frozen=True)
class Variant:
    """A row of the comparison: its name, and what is asked for with the first seed."""

    name: str
    request: Request


def variants(request: Request, decided: Decided, with_baseline: bool, announce: Note) -> tuple[Variant, ...]:
    """The recipe first, then its baselines; one that the recipe itself is, or that cannot be made, is left out."""
    own = Variant(decided.recipe, request)
    if not with_baseline:
        return (own,)
    if decided.data.train.hr is None:
        raise UsageError(
            "--with-baseline: without HR images the teacher is the only label, and nothing can be trained without it"
        )
    if decided.cache is not None and any(view.shrink > 1 for view in decided.cache.views):
        raise UsageError(
            "--with-baseline: the teacher cache of this recipe moves patches to other places than the baselines'; "
            "leave out --teacher-cache"
        )
    itself = _start(request, decided) if _pixel_only(decided.preset) else None
    starts = [start for start in _starts(request, decided, announce) if start != itself]
    if not starts:
        raise UsageError(
            f"--with-baseline: recipe {request.recipe} from these weights is itself the only baseline there is; "
            "leave it out, or name a teacher to cut the student from"
        )
    found = [_baseline(start, request, decided) for start in starts]
    taken = [dataclasses.replace(v, name=f"{v.name}-baseline") if v.name == own.name else v for v in found]
    return (own, *taken)


def _pixel_only(preset: Preset) -> bool:
    return {rule.name for rule in preset.methods} <= PIXEL_ONLY


def _start(request: Request, decided: Decided) -> str:
    """Where the recipe's own student starts, as the name of the baseline that starts there."""
    if request.init_from is not None:
        return "init-from"
    return "inherit" if decided.pupil.init == "inherit" else "scratch"


def _starts(request: Request, decided: Decided, announce: Note) -> list[str]:
    """Random weights; a slice, where the teacher can be cut to the student; the user's file, where there is one."""
    starts = ["scratch"]
    why = _uncut(decided)
    if why is None:
        starts.append("inherit")
    else:
        announce(f"--with-baseline: only from random weights, not inherited: {why}")
    if request.init_from is not None:
        starts.append("init-from")
    return starts


def _uncut(decided: Decided) -> str | None:
    """Why no student of this shape can be cut from the teacher; None where it can."""
    teacher = decided.teacher
    if teacher is None:
        return "there is no teacher"
    if teacher.network is None:
        return f"the {teacher.backend} teacher gives outputs only"
    try:
        student_cuts(teacher.network.spec, decided.pupil.network.spec)
    except SrkdError as error:
        return str(error)
    return None


def _baseline(start: str, request: Request, decided: Decided) -> Variant:
    """The request of one baseline: everything of the recipe's but the methods and the starting weights."""
    teacher, pupil = decided.teacher, decided.pupil
    of_rule = request.student is None
    rule = decided.preset.student
    inits: Mapping[str, Init] = {"scratch": "random", "inherit": "inherit", "init-from": pupil.init}
    init = inits[start]
    asked = dataclasses.replace(
        request,
        recipe="inherit" if start == "inherit" else "scratch",
        teacher=str(teacher.origin.path.resolve()) if teacher is not None and teacher.origin is not None else None,
        width=(request.width or rule.width) if of_rule else None,
        depth=(request.depth or rule.depth) if of_rule else None,
        student=None if of_rule else student_text(pupil.network.spec),
        init=init,
        select=None if init == "random" else pupil.select,
        init_from=request.init_from if start == "init-from" else None,
        steps=None,
        settings=schedule_settings(decided.preset),
        teacher_cache=False,
        phi_weights=None,
    )
    return Variant(start, asked)


def schedule_settings(preset: Preset) -> tuple[str, ...]:
    """The recipe's schedule as `--set` words, every field named: no preset of a baseline adds one of its own."""
    fields: dict[str, Any] = preset.schedule.model_dump(mode="json")
    return tuple(f"schedule.{name}={json.dumps(value).strip(chr(34))}" for name, value in sorted(fields.items()))


def require_comparable(variant: Variant, baseline: Decided, own: Decided) -> None:
    """A comparison in which more than methods and starting weights differ is none."""
    if baseline.preset.schedule != own.preset.schedule:
        raise SrkdError(f"the baseline {variant.name} would not run the recipe's schedule: this is a fault of srkd")
    if baseline.pupil.network.spec != own.pupil.network.spec:
        raise SrkdError(f"the baseline {variant.name} would not train the recipe's student: this is a fault of srkd")
