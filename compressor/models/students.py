"""Students from teachers: by width and depth along the axis plan, inherited or random; and students inside teachers.

Width keeps leading channels (CSD, model/common.py), per segment of a concatenation and per group of a grouped
convolution; depth keeps blocks ⌊(j + 0.5)·n/n'⌋. To keep others than the leading ones, the teacher's units are put
in another order first, which changes nothing of what it computes. The plan is declared beside each network; nothing
here knows one.

Channels in order of strength: the same function with its strongest units first, so that leading slices keep them.

Along the residual stream every layer meets the same units, so one order for a whole axis, applied wherever the axis
plan names it, changes nothing but the names. Units of a grouped convolution stay in their group, the channels of an
attention head stay together, and hidden units that only one module knows have an order of their own there.

The strength of a unit is the sum of the L1 norms of the weights that touch it, as producer or as consumer (filter
norms: Li et al., 2017, "Pruning filters for efficient ConvNets").

A student inside its teacher: it runs on slices of the teacher's own parameters, without a second copy.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch

from compressor.base.choices import Init, Select
from compressor.base.errors import UsageError
from compressor.models.networks.axes import Axis, AxisPlan, Cut, Segments, cuts
from compressor.models.networks.base import ImageModel, Network, Spec
from compressor.models.networks.registry import architecture, build


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
    """A smaller network of the teacher's kind: `width` of its channels, `depth` of its innermost repeat.

    `select="l1"` keeps the strongest channels instead of the leading ones. `segments="contiguous"` reads the fusions
    of CARN as CSD's code does: the leading columns of the concatenation.
    """
    network = teacher.require_network("weights")
    spec = reduced_spec(network.spec, width, depth)
    return student_of_spec(network, spec, init=init, seed=seed, segments=segments, select=select)


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
    return order_by_strength(teacher, long, cut)


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
    return network.fingerprint()


Key = tuple[str, str]
"""An axis and, where it is local, the module that it belongs to (else "")."""


def order_by_strength(network: Network, plan: AxisPlan, axes: frozenset[str]) -> Network:
    """A copy of `network` that computes the same, with the units of `axes` in falling order of strength."""
    parameters = dict(network.named_parameters())
    touched = strengths(plan, parameters, axes)
    orders = {key: _order(plan.axes[key[0]], strength) for key, strength in touched.items()}
    permuted = copy.deepcopy(network)
    with torch.no_grad():
        for name, parameter in permuted.named_parameters():
            parameter.copy_(_permuted(parameters[name], _terms(plan, name), orders))
    return permuted


def strengths(plan: AxisPlan, parameters: Mapping[str, torch.Tensor], axes: frozenset[str]) -> dict[Key, torch.Tensor]:
    """For each axis (and place, where it is local): the L1 norm of the weights that touch each position."""
    found: dict[Key, torch.Tensor] = {}
    for name, parameter in parameters.items():
        if parameter.dim() < 2:
            continue
        magnitude = parameter.detach().abs().double()
        for dim, terms in enumerate(_terms(plan, name)):
            for term in terms:
                if term.axis not in axes:
                    continue
                part = magnitude.narrow(dim, term.start, term.length)
                touched = _per_position(part, dim, term, plan.axes[term.axis])
                found[term.key] = found[term.key] + touched if term.key in found else touched
    return found


@dataclass(frozen=True)
class Term:
    """One segment of a parameter's axis: `length` positions from `start` that belong to an axis of the plan."""

    axis: str
    key: Key
    operator: str
    number: int
    start: int
    length: int


def _terms(plan: AxisPlan, name: str) -> list[list[Term]]:
    """The segments of each declared axis of a parameter."""
    scope = name.rsplit(".", 2)[0]
    found = []
    for expression in plan.expressions(name):
        terms, start = [], 0
        for text in expression.split("|"):
            axis_name, operator, number = (*text.split(), "", "1")[:3]
            axis = plan.axes[axis_name]
            leader = axis.follows or axis_name
            length = axis.size // axis.groups if operator == "/" else axis.size * int(number)
            key = (leader, scope if plan.axes[leader].local else "")
            terms.append(Term(axis_name, key, operator, int(number), start, length))
            start += length
        found.append(terms)
    return found


def _per_position(part: torch.Tensor, dim: int, term: Term, axis: Axis) -> torch.Tensor:
    """Sum of magnitudes at each position of the axis, in the order of the network."""
    if term.operator == "/":
        # Rows of one group after the other; each group's columns are its own positions.
        rows = part.reshape(axis.groups, part.shape[0] // axis.groups, part.shape[1], -1)
        return rows.sum((1, 3)).flatten()
    along = part.movedim(dim, 0).flatten(1).sum(1)
    return along.reshape(-1, term.number).sum(1) if term.operator == "*" else along


def _order(axis: Axis, strength: torch.Tensor) -> torch.Tensor:
    """Old positions in their new order: units by falling strength within each group, ties as they were."""
    units = strength.reshape(axis.groups, -1, axis.unit)
    best = units.sum(2).argsort(dim=1, descending=True, stable=True)
    positions = torch.arange(strength.numel()).reshape(units.shape)
    return torch.stack([group[order] for group, order in zip(positions, best.cpu(), strict=True)]).flatten()


def _permuted(
    tensor: torch.Tensor, terms_of_axes: list[list[Term]], orders: Mapping[Key, torch.Tensor]
) -> torch.Tensor:
    for dim, terms in enumerate(terms_of_axes):
        if terms[0].operator == "/" and terms[0].key in orders:
            tensor = _permuted_within_groups(tensor, orders[terms[0].key], tensor.shape[dim])
            continue
        index = torch.cat([_index(term, orders) for term in terms])
        tensor = tensor.index_select(dim, index.to(tensor.device))
    return tensor


def _permuted_within_groups(tensor: torch.Tensor, order: torch.Tensor, columns: int) -> torch.Tensor:
    """The input side of a grouped convolution: each group of rows has its own order of columns."""
    groups = order.numel() // columns
    blocks = tensor.chunk(groups, 0)
    orders = order.reshape(groups, columns) - torch.arange(groups)[:, None] * columns
    return torch.cat([block.index_select(1, own.to(tensor.device)) for block, own in zip(blocks, orders, strict=True)])


def _index(term: Term, orders: Mapping[Key, torch.Tensor]) -> torch.Tensor:
    """Old positions of one segment in their new order."""
    order = orders.get(term.key)
    if order is None:
        return torch.arange(term.start, term.start + term.length)
    if term.axis != term.key[0]:
        unit = order.numel() // term.length
        order = order[::unit] // unit
    if term.operator == "*":
        order = (order[:, None] * term.number + torch.arange(term.number)).flatten()
    return order + term.start


class StudentView:
    """The forward of a student of `spec` inside `whole`; every gradient lands in `whole` (CSD, model/edsr.py).

    `skeleton` is the student's own module: its features are read there. Its weights are never used.
    """

    def __init__(self, whole: Network, spec: Spec, segments: Segments = "each") -> None:
        some = next(whole.parameters())
        self.whole, self.skeleton = whole, build(spec).to(some.device, some.dtype).requires_grad_(False).train()
        self.skeleton.load_state_dict(buffers_of(whole), strict=False)
        self.cuts = student_cuts(whole.spec, spec, segments)

    def __call__(self, lr: torch.Tensor) -> torch.Tensor:
        own = dict(self.whole.named_parameters())
        slices = {name: cut.take(own[cut.source]) for name, cut in self.cuts.items()}
        return cast(torch.Tensor, torch.func.functional_call(self.skeleton, slices, (lr,)))
