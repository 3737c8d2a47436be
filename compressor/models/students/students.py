"""Students: networks cut from a teacher by width and depth, random ones, and students that run inside their teacher.

Width keeps leading channels (CSD, model/common.py), per segment of a concatenation and per group of a grouped
convolution; depth keeps blocks ⌊(j + 0.5)·n/n'⌋. To keep other channels than the leading ones, the teacher's units are
reordered first, which does not change its function. The axis plan is declared beside each network; nothing here depends
on which network it is.
"""

from __future__ import annotations

import re
from typing import cast, get_args

import torch

from compressor.base.choices import Init, Select
from compressor.base.errors import UsageError
from compressor.models.fitting.fit import fit
from compressor.models.fitting.patches import embedded_patches
from compressor.models.networks.axes import Segments
from compressor.models.networks.base import ImageModel, Network, Spec
from compressor.models.networks.registry import NETWORKS, architecture, build
from compressor.models.networks.slices import axis_plans, student_cuts
from compressor.models.students.principal import order_by_principal_directions
from compressor.models.students.unit_order import order_by_strength


def build_student(
    teacher: ImageModel,
    *,
    width: float = 1.0,
    depth: float = 1.0,
    init: Init = "inherit",
    seed: int = 0,
    segments: Segments = "each",
    select: Select = "leading",
) -> Network:
    """Return a smaller network of the teacher's kind: `width` of its channels, `depth` of its innermost repeat.

    It is cut from the teacher, fitted on the embedded photos, or random by `seed`, and on the teacher's device.
    `select="l1"` keeps the strongest channels instead of the leading ones, `select="principal"` the principal
    directions of the features, measured on the embedded photos, if the stream is linear. `segments="contiguous"` cuts
    the fusions of CARN as CSD's code does: the leading columns of the concatenation.
    """
    network = teacher.require_network("weights")
    spec = smaller_spec(network.spec, width=width, depth=depth)
    for name, value, known in (("init", init, get_args(Init)), ("select", select, get_args(Select))):
        if value not in known:
            raise UsageError(f"{name}={value!r} is not one of {', '.join(known)}")
    if init != "inherit" and select != "leading":
        raise UsageError(f"select={select!r} chooses what is inherited, and init={init!r} inherits nothing")
    if init == "fit":
        descriptor = network.descriptor
        return fit(network, spec, embedded_patches(descriptor.scale, descriptor.channels))
    if init == "random":
        return random_student(network, spec, seed)
    return cut_student(reordered(network, spec, select), spec, segments)


def smaller_spec(spec: Spec, *, width: float = 1.0, depth: float = 1.0) -> Spec:
    # Call these only if the axis is to be reduced: a network may lack it.
    spec = spec if width == 1.0 else spec.narrowed(width)
    return spec if depth == 1.0 else spec.shortened(depth)


def random_student(teacher: Network, spec: Spec, seed: int) -> Network:
    """Return a student with random weights on the teacher's device, and with its mean shift if it is of its kind."""
    student = build(spec, seed=seed)
    if spec.arch == teacher.spec.arch:
        student.load_state_dict(buffers_of(teacher), strict=False)
    like = next(teacher.parameters())
    return student.to(like.device, like.dtype)


def cut_student(teacher: Network, spec: Spec, segments: Segments = "each") -> Network:
    """Return the leading slice of the teacher in the shape of `spec`, on the teacher's device."""
    student, teacher = build(spec, seed=0), teacher.deployed()
    if spec.deployed != spec:
        student.fill(cut_student(teacher, spec.deployed, segments))
    else:
        # load_state_dict copies: the student shares no memory with the teacher.
        student.load_state_dict(view_parameters(teacher, spec, segments) | buffers_of(teacher), strict=True)
    like = next(teacher.parameters())
    return student.to(like.device, like.dtype)


def reordered(teacher: Network, spec: Spec, select: Select) -> Network:
    """Return a network with the teacher's function, whose leading slices are those that `select` asks for."""
    teacher, spec = teacher.deployed(), spec.deployed
    if select == "leading":
        return teacher
    if select == "l1":
        return strongest_first(teacher, spec)
    axis_plans(teacher.spec, spec)
    descriptor = teacher.descriptor
    return order_by_principal_directions(teacher, spec, embedded_patches(descriptor.scale, descriptor.channels))


def strongest_first(teacher: Network, spec: Spec) -> Network:
    """Return a copy of the teacher with the same function, the strongest units first on every axis that is cut."""
    long, short = axis_plans(teacher.spec, spec)
    sizes = {name: axis.size for name, axis in long.axes.items() if axis.follows is None}
    narrower = frozenset(name for name, axis in short.axes.items() if axis.size < sizes.get(name, 0))
    return order_by_strength(teacher, long, narrower)


def view_parameters(teacher: Network, spec: Spec, segments: Segments = "each") -> dict[str, torch.Tensor]:
    """Return the student's parameters inside the teacher: views if an axis is cut in one run, else gathers.

    For torch.func.functional_call(skeleton, view_parameters(teacher, skeleton.spec), lr): the same output as the
    extracted student, with gradients that reach the kept slices of the teacher.
    """
    parameters = dict(teacher.named_parameters())
    return {name: cut.take(parameters[cut.source]) for name, cut in student_cuts(teacher.spec, spec, segments).items()}


def require_slice(teacher: Spec, student: Spec) -> None:
    """Refuse a student that is not the same network with the same depth and fewer channels."""
    student_cuts(teacher, student)
    long, short = (plan.repeats for plan in axis_plans(teacher, student))
    for whole, kept in zip(long, short, strict=True):
        if kept.count < whole.count:
            raise UsageError(
                f"the student has {kept.count} of the teacher's {whole.count} {whole.prefix.rpartition('.')[2]}, and "
                "inside its teacher it has as many: leave out --depth"
            )
    if student == teacher:
        raise UsageError("the student is the whole teacher: inside it a student has fewer channels, --width 0.5")


def buffers_of(teacher: Network) -> dict[str, torch.Tensor]:
    """Return the teacher's persistent buffers (a mean shift from its file), which a student shares."""
    parameters = dict(teacher.named_parameters())
    return {name: tensor for name, tensor in teacher.state_dict().items() if name not in parameters}


def parse_student(text: str, like: Spec | None = None, *, scale: int | None = None) -> Spec:
    """Return the spec in `edsr:width=48,depth=16,scale=4` or, by a named size, `plain-s:scale=2`; numbers of a tuple
    are separated by slashes (mean=0.4/0.4/0.4).

    With `like`, a spec of the same network, missing fields are copied from it; otherwise they have the network's
    defaults, and `scale` unless that is None.
    """
    name, _, listing = (part.strip() for part in text.partition(":"))
    arch, _, size = name.rpartition("-")
    is_sized = arch in NETWORKS and name not in NETWORKS
    family = architecture(arch if is_sized else name)
    options: dict[str, object] = {}
    for entry in filter(None, (piece.strip() for piece in listing.split(","))):
        field, equals, value = entry.partition("=")
        if not equals:
            raise UsageError(f"--student {text!r}: {entry!r} is not of the form field=value")
        if field.strip() in options:
            raise UsageError(f"--student {text!r}: {field.strip()} appears twice")
        options[field.strip()] = value.strip()
    if is_sized:
        options = {**family.size(size), **options}
    base = like if isinstance(like, family.spec) and like.arch == family.name else family.spec()
    if base is not like and scale is not None:
        options = {"scale": scale, **options}
    return base.with_options(options)


def stated_scale(text: str) -> int | None:
    """Return the scale that a student's text states, if it does."""
    stated = re.search(r"\bscale\s*=\s*(\d+)", text)
    return None if stated is None else int(stated[1])


def student_text(spec: Spec) -> str:
    """Return the spec in the form that `parse_student` reads, with every field."""
    fields = {name: value for name, value in spec.to_dict().items() if name != "arch" and value is not None}
    options = (
        f"{name}={'/'.join(map(str, value)) if isinstance(value, tuple) else value}" for name, value in fields.items()
    )
    return f"{spec.arch}:{','.join(options)}"


def width_hint(spec: Spec) -> str | None:
    """Return a hint if the channels are not a multiple of 8, the block size of chips and libraries; else None."""
    axis = architecture(spec.arch).axes(spec).axes.get("width")
    if axis is None or axis.size % 8 == 0:
        return None
    channels = axis.size
    below, above = channels // 8 * 8, -(-channels // 8) * 8
    others = f"{below} or {above}" if below else f"{above}"
    return f"hint: {channels} channels are not a multiple of 8; on most hardware {others} run as fast or faster"


class StudentView:
    """The forward pass of a student of `spec` inside `whole`; all gradients go to `whole` (CSD, model/edsr.py).

    `skeleton` is the student's own module, from which its features are read; its weights are never used.
    """

    def __init__(self, whole: Network, spec: Spec, segments: Segments = "each") -> None:
        like = next(whole.parameters())
        self.whole, self.skeleton = whole, build(spec).to(like.device, like.dtype).requires_grad_(False).train()
        self.skeleton.load_state_dict(buffers_of(whole), strict=False)
        self.cuts = student_cuts(whole.spec, spec, segments)

    def __call__(self, lr: torch.Tensor) -> torch.Tensor:
        parameters = dict(self.whole.named_parameters())
        slices = {name: cut.take(parameters[cut.source]) for name, cut in self.cuts.items()}
        return cast(torch.Tensor, torch.func.functional_call(self.skeleton, slices, (lr,)))
