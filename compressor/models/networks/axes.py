"""The axis plan: the meaning of every axis of every parameter, declared once beside each network, and the one slicer.

An axis expression is

    width              the units of an axis, in order
    width * 4          four consecutive rows for each unit (a convolution before a ×2 pixel shuffle)
    width / 4          the units of one of four groups (the input side of a grouped convolution)
    width | width      a concatenation: one segment for each map
    rgb                an axis that is never cut

Kept units are always the leading ones (CSD, model/common.py); with g groups, the leading ones of each group.
Kept positions are runs (start, length): one run is a view, several are a gather.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch

from compressor.base.errors import SrkdError

Run = tuple[int, int]
Segments = Literal["each", "contiguous"]


@dataclass(frozen=True)
class Axis:
    """An axis that students may cut: how many positions it has, and in how many equal groups.

    Positions move in units (SwinIR: the channels of a head). A local axis is known to one module only, so that each
    place may order it alone; one that follows another has a position for each of its units.
    """

    size: int
    groups: int = 1
    unit: int = 1
    local: bool = False
    follows: str | None = None


@dataclass(frozen=True)
class Repeat:
    """Blocks that differ only by their index: parameters `prefix.<i>.…`, i < count."""

    prefix: str
    count: int


@dataclass(frozen=True)
class AxisPlan:
    """Axes by name, the expressions of each parameter by pattern (`*` is a number), and what repeats."""

    axes: Mapping[str, Axis]
    parameters: Mapping[str, tuple[str, ...]]
    repeats: tuple[Repeat, ...] = field(default=())

    def expressions(self, name: str) -> tuple[str, ...]:
        """Return the expressions of a parameter's axes."""
        key = re.sub(r"(?<=\.)\d+(?=\.)", "*", name)
        expressions = self.parameters.get(name) or self.parameters.get(key) or self._by_pattern(name)
        if expressions is None:
            raise SrkdError(f"the axis plan has no entry for {name}")
        return expressions

    def _by_pattern(self, name: str) -> tuple[str, ...] | None:
        """Look for a pattern that leaves some numbers open and names others (`groups.*.conv.0.weight`)."""
        for pattern, expressions in self.parameters.items():
            if "*" in pattern and re.fullmatch(re.escape(pattern).replace(r"\*", r"\d+"), name):
                return expressions
        return None


def layer_axes(weights: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Return the expressions of each layer's weight, as declared, and of its bias: the weight's first axis."""
    return {
        f"{layer}.{kind}": expressions if kind == "weight" else expressions[:1]
        for layer, expressions in weights.items()
        for kind in ("weight", "bias")
    }


@dataclass(frozen=True)
class Cut:
    """The place of a student's parameter in the teacher: the parameter, and the kept runs of each declared axis."""

    source: str
    runs: tuple[tuple[Run, ...], ...]

    def take(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the kept part: a view where every axis is one run, else a gather. Differentiable."""
        for dim, runs in enumerate(self.runs):
            pieces = [tensor.narrow(dim, start, length) for start, length in runs]
            tensor = pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim)
        return tensor

    def mask(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return `tensor` with everything that is not kept set to zero."""
        kept = torch.ones_like(tensor, dtype=torch.bool)
        for dim, runs in enumerate(self.runs):
            along = torch.zeros(tensor.shape[dim], dtype=torch.bool, device=tensor.device)
            for start, length in runs:
                along[start : start + length] = True
            kept &= along.reshape([-1 if d == dim else 1 for d in range(tensor.dim())])
        return torch.where(kept, tensor, torch.zeros_like(tensor))


def cuts(teacher: AxisPlan, student: AxisPlan, names: Iterable[str], *, segments: Segments = "each") -> dict[str, Cut]:
    """Return the place of each parameter of the student in the teacher.

    `segments="contiguous"` reads a concatenation's leading columns as CSD's code does, instead of the leading
    columns of each segment.
    """
    places = {}
    for name in names:
        source = _source_name(name, teacher, student)
        runs = tuple(
            _expression_runs(expression, teacher, student, segments) for expression in teacher.expressions(source)
        )
        places[name] = Cut(source, runs)
    return places


def inherited_index(index: int, kept: int, total: int) -> int:
    """Return the teacher's block that block `index` of a shorter student starts from: ⌊(j + 0.5)·n/n'⌋."""
    return (2 * index + 1) * total // (2 * kept)


def _source_name(name: str, teacher: AxisPlan, student: AxisPlan) -> str:
    """Return the teacher's parameter that `name` starts from; repeats may nest (`groups`, then `groups.*.blocks`)."""
    for long, short in zip(teacher.repeats, student.repeats, strict=True):
        prefix = re.escape(long.prefix).replace(r"\*", r"\d+")
        match = re.match(rf"({prefix})\.(\d+)\.", name)
        if short.count > long.count:
            raise SrkdError(f"a student of {short.count} blocks cannot inherit from a teacher of {long.count}")
        if match and long.count != short.count:
            index = inherited_index(int(match.group(2)), short.count, long.count)
            name = f"{match.group(1)}.{index}.{name[match.end() :]}"
    return name


def _expression_runs(expression: str, teacher: AxisPlan, student: AxisPlan, segments: Segments) -> tuple[Run, ...]:
    parts = [_term_runs(term.strip(), teacher, student) for term in expression.split("|")]
    if segments == "contiguous":
        return ((0, sum(length for _, runs in parts for _, length in runs)),)
    runs: list[Run] = []
    offset = 0
    for size, kept in parts:
        runs.extend((offset + start, length) for start, length in kept)
        offset += size
    return _merged(runs)


def _term_runs(term: str, teacher: AxisPlan, student: AxisPlan) -> tuple[int, tuple[Run, ...]]:
    """Return the size of the term in the teacher, and its kept runs."""
    name, operator, number = (*term.split(), "", "")[:3]
    long, short = teacher.axes[name], student.axes[name]
    if long.groups != short.groups:
        raise SrkdError(f"a student with {short.groups} groups cannot be cut from a teacher with {long.groups}")
    per_group, kept = long.size // long.groups, short.size // short.groups
    if kept > per_group:
        raise SrkdError(f"the student's {name} of {short.size} is larger than the teacher's {long.size}")
    if operator == "/":
        return per_group, ((0, kept),)
    rows = int(number) if operator == "*" else 1
    runs = [(group * per_group * rows, kept * rows) for group in range(long.groups)]
    return long.size * rows, _merged(runs)


def _merged(runs: list[Run]) -> tuple[Run, ...]:
    merged: list[Run] = []
    for start, length in runs:
        if merged and sum(merged[-1]) == start:
            merged[-1] = (merged[-1][0], merged[-1][1] + length)
        else:
            merged.append((start, length))
    return tuple(merged)
