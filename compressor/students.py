"""Students from teachers: by width and depth along the axis plan, inherited or random; and students inside teachers.

Width keeps leading channels (CSD, model/common.py), per segment of a concatenation and per group of a grouped
convolution; depth keeps blocks ⌊(j + 0.5)·n/n'⌋. To keep others than the leading ones, the teacher's units are put
in another order first, which changes nothing of what it computes. The plan is declared beside each network; nothing
here knows one.
"""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Literal

import torch

from compressor.checkpoints.save import tensor_bytes
from compressor.errors import UsageError
from compressor.networks.axes import AxisPlan, Cut, Segments, cuts
from compressor.networks.base import Network, Spec
from compressor.networks.permute import strongest_first as ordered_by_strength
from compressor.networks.registry import architecture, build

Init = Literal["inherit", "random"]
Select = Literal["leading", "l1"]
"""Which units a narrower student keeps: the leading ones, or those that the largest weights touch."""


def build_student(
    teacher: Network,
    *,
    width: float = 1.0,
    depth: float = 1.0,
    init: Init = "inherit",
    seed: int = 0,
    segments: Segments = "each",
    select: Select = "leading",
) -> Network:
    """A smaller network of the teacher's kind: `width` of its channels, `depth` of its innermost repeat.

    `select="l1"` keeps the strongest channels instead of the leading ones. `segments="contiguous"` reads the fusions
    of CARN as CSD's code does: the leading columns of the concatenation.
    """
    spec = reduced_spec(teacher.spec, width, depth)
    return student_of_spec(teacher, spec, init=init, seed=seed, segments=segments, select=select)


def reduced_spec(spec: Spec, width: float, depth: float) -> Spec:
    """The spec of a student; a network without the axis is asked only when the axis is to be reduced."""
    spec = spec if width == 1.0 else spec.narrowed(width)
    return spec if depth == 1.0 else spec.shortened(depth)


def student_of_spec(
    teacher: Network,
    spec: Spec,
    *,
    init: Init = "inherit",
    seed: int = 0,
    segments: Segments = "each",
    select: Select = "leading",
) -> Network:
    """A student of a given spec, on the teacher's device: its weights cut from the teacher's, or random by `seed`.

    A random student need not resemble the teacher; an inherited one must be the same network, cut.
    """
    if init not in ("inherit", "random"):
        raise UsageError(f"init={init!r} is neither 'inherit' nor 'random'")
    if select not in ("leading", "l1"):
        raise UsageError(f"select={select!r} is neither 'leading' nor 'l1'")
    if init == "random" and select != "leading":
        raise UsageError(f"select={select!r} chooses what is inherited, and init='random' inherits nothing")
    student = build(spec, seed=seed)
    if init == "inherit":
        source = teacher if select == "leading" else strongest_first(teacher, spec)
        # load_state_dict copies: nothing of the student lies in the teacher's memory.
        student.load_state_dict(view_parameters(source, spec, segments) | buffers_of(teacher), strict=True)
    elif spec.arch == teacher.spec.arch:
        student.load_state_dict(buffers_of(teacher), strict=False)
    some = next(teacher.parameters())
    return student.to(some.device, some.dtype)


def strongest_first(teacher: Network, spec: Spec) -> Network:
    """A copy of the teacher that computes the same, the strongest units leading on every axis that `spec` cuts."""
    long, short = _plans(teacher.spec, spec)
    leading = {name: axis.size for name, axis in long.axes.items() if axis.follows is None}
    cut = frozenset(name for name, axis in short.axes.items() if axis.size < leading.get(name, 0))
    return ordered_by_strength(teacher, long, cut)


def view_parameters(teacher: Network, spec: Spec, segments: Segments = "each") -> dict[str, torch.Tensor]:
    """The student's parameters inside the teacher: views where an axis is cut in one run, gathers elsewhere.

    For torch.func.functional_call(skeleton, view_parameters(teacher, skeleton.spec), lr): the same output as the
    extracted student's, and gradients that reach the kept slices of the teacher.
    """
    own = dict(teacher.named_parameters())
    return {name: cut.take(own[cut.source]) for name, cut in student_cuts(teacher.spec, spec, segments).items()}


def student_cuts(teacher: Spec, student: Spec, segments: Segments = "each") -> dict[str, Cut]:
    """Where each parameter of the student lies in the teacher."""
    long, short = _plans(teacher, student)
    with torch.device("meta"):
        names = [name for name, _ in build(student).named_parameters()]
    return cuts(long, short, names, segments=segments)


def require_slice(teacher: Spec, student: Spec) -> None:
    """Refuse a student that is not the same network at the same depth with fewer channels."""
    student_cuts(teacher, student)
    long, short = (plan.repeats for plan in _plans(teacher, student))
    for whole, part in zip(long, short, strict=True):
        if part.count < whole.count:
            raise UsageError(
                f"the student has {part.count} of the teacher's {whole.count} {whole.prefix.rpartition('.')[2]}, and "
                "inside its teacher it has as many: leave out --depth"
            )
    if student == teacher:
        raise UsageError("the student is the whole teacher: inside it a student has fewer channels, --width 0.5")


def _plans(teacher: Spec, student: Spec) -> tuple[AxisPlan, AxisPlan]:
    """The axis plans of both, which must be one network at one scale."""
    if teacher.arch != student.arch:
        raise UsageError(f"a {student.arch} cannot inherit from a {teacher.arch}: use init='random'")
    if teacher.scale != student.scale:
        raise UsageError(f"a student of scale {student.scale} cannot inherit from a teacher of scale {teacher.scale}")
    family = architecture(student.arch)
    return family.axes(teacher), family.axes(student)


def buffers_of(teacher: Network) -> dict[str, torch.Tensor]:
    """Buffers that the teacher's file brought (a mean shift that moved): a student has no others."""
    parameters = dict(teacher.named_parameters())
    return {name: tensor for name, tensor in teacher.state_dict().items() if name not in parameters}


def parse_student(text: str, like: Spec | None = None, *, scale: int | None = None) -> Spec:
    """`edsr:width=48,depth=16,scale=4` as a spec; numbers of a tuple stand between slashes (mean=0.4/0.4/0.4).

    With `like`, a spec of the same network, fields that are not named are taken from it; otherwise they have the
    network's defaults, and `scale` where that is given.
    """
    name, _, listing = text.strip().partition(":")
    family = architecture(name.strip())
    options: dict[str, object] = {}
    for part in filter(None, (piece.strip() for piece in listing.split(","))):
        field, equals, value = part.partition("=")
        if not equals:
            raise UsageError(f"--student {text!r}: {part!r} is not of the form field=value")
        if field.strip() in options:
            raise UsageError(f"--student {text!r}: {field.strip()} is given twice")
        options[field.strip()] = value.strip()
    base = like if isinstance(like, family.spec) and like.arch == family.name else family.spec()
    if base is not like and scale is not None:
        options = {"scale": scale, **options}
    return base.with_options(options)


def student_text(spec: Spec) -> str:
    """The spec as `parse_student` reads it, every field named."""
    fields = {name: value for name, value in spec.to_dict().items() if name != "arch" and value is not None}
    told = (
        f"{name}={'/'.join(map(str, value)) if isinstance(value, tuple) else value}" for name, value in fields.items()
    )
    return f"{spec.arch}:{','.join(told)}"


def width_hint(spec: Spec) -> str | None:
    """One line where the channels are no multiple of 8: chips and their libraries work in blocks of at least that."""
    channels = architecture(spec.arch).axes(spec).axes["width"].size
    if channels % 8 == 0:
        return None
    below, above = channels // 8 * 8, -(-channels // 8) * 8
    others = f"{below} or {above}" if below else f"{above}"
    return f"hint: {channels} channels are no multiple of 8; on most hardware {others} run as fast or faster"


def network_sha256(network: Network) -> str:
    """A hash over the spec and every named tensor: equal before and after means that nothing was trained."""
    digest = hashlib.sha256(repr(dataclasses.asdict(network.spec)).encode())
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor_bytes(tensor))
    return digest.hexdigest()
