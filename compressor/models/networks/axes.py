"""The axis plan: the meaning of every axis of every parameter, declared beside each network, and the slicing by it.

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
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch

from compressor.base.errors import SrkdError

Run = tuple[int, int]
Segments = Literal["each", "contiguous"]


@dataclass(frozen=True)
class Axis:
    """An axis that students may cut: its number of positions, and of equal groups.

    Positions are kept or moved in units (SwinIR: the channels of a head). A local axis belongs to one module only, so
    that each place may be ordered independently; an axis that `follows` another has one position per unit of that one.
    """

    size: int
    groups: int = 1
    unit: int = 1
    local: bool = False
    follows: str | None = None


@dataclass(frozen=True)
class Repeat:
    """Blocks that differ only in their index: parameters `prefix.<i>.…`, i < count."""

    prefix: str
    count: int


@dataclass(frozen=True)
class Term:
    """One segment of an expression: `length` positions from `start`, of one axis of the plan.

    With the operator * each unit has `number` positions; with / they are the units of one of `number` groups.
    """

    axis: str
    operator: str
    number: int
    start: int
    length: int


@dataclass(frozen=True)
class AxisPlan:
    """Axes by name, the axis expressions of each parameter by pattern (`*` is a number), and the repeated blocks."""

    axes: Mapping[str, Axis]
    parameters: Mapping[str, tuple[str, ...]]
    repeats: tuple[Repeat, ...] = field(default=())

    def expressions(self, name: str) -> tuple[str, ...]:
        """Return how the size of each of a parameter's dimensions follows from the axes."""
        if name in self.parameters:
            return self.parameters[name]
        for pattern, expressions in self.parameters.items():
            if "*" in pattern and re.fullmatch(_any_numbers(pattern), name):
                return expressions
        raise SrkdError(f"the axis plan has no entry for {name}")

    def terms(self, expression: str) -> list[Term]:
        terms, start = [], 0
        for text in expression.split("|"):
            name, operator, number = (*text.split(), "", "1")[:3]
            axis = self.axes[name]
            length = axis.size // axis.groups if operator == "/" else axis.size * int(number)
            terms.append(Term(name, operator, int(number), start, length))
            start += length
        return terms


def _any_numbers(pattern: str) -> str:
    return re.escape(pattern).replace(r"\*", r"\d+")


def layer_axes(weights: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Return the expressions of each layer's weight and bias; a bias has the first of its weight's."""
    return {
        f"{layer}.{kind}": expressions if kind == "weight" else expressions[:1]
        for layer, expressions in weights.items()
        for kind in ("weight", "bias")
    }


@dataclass(frozen=True)
class Cut:
    """The place of a student's parameter in the teacher: the source parameter, and the kept runs of each axis."""

    source: str
    runs: tuple[tuple[Run, ...], ...]

    def take(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the kept part: a view if every axis has one run, else a gather. Differentiable."""
        for dim, runs in enumerate(self.runs):
            pieces = [tensor.narrow(dim, start, length) for start, length in runs]
            tensor = pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim)
        return tensor


def cuts(teacher: AxisPlan, student: AxisPlan, names: Iterable[str], *, segments: Segments = "each") -> dict[str, Cut]:
    """Return the place of each parameter of the student in the teacher.

    `segments="contiguous"` reads a concatenation's leading columns as CSD's code does, instead of the leading
    columns of each segment.
    """
    places = {}
    for name in names:
        source = name
        for long, short in zip(teacher.repeats, student.repeats, strict=True):  # may nest: groups, groups.*.blocks
            if short.count > long.count:
                raise SrkdError(f"a student of {short.count} blocks cannot inherit from a teacher of {long.count}")
            starts = [[inherited_index(j, short.count, long.count)] for j in range(short.count)]
            (source,) = renumbered(source, long, starts)
        expressions = teacher.expressions(source)
        runs = (_expression_runs(expression, teacher, student, segments) for expression in expressions)
        places[name] = Cut(source, tuple(runs))
    return places


def inherited_index(index: int, kept: int, total: int) -> int:
    """Return the teacher's block from which block `index` of a shorter student starts: ⌊(j + 0.5)·n/n'⌋."""
    return (2 * index + 1) * total // (2 * kept)


def renumbered(name: str, repeat: Repeat, numbers: Sequence[Iterable[int]]) -> list[str]:
    """Return the names of a part in other blocks of a repeat, given by the number of its own; else the name itself."""
    match = re.match(rf"({_any_numbers(repeat.prefix)})\.(\d+)(?=\.|$)", name)
    if match is None:
        return [name]
    return [f"{match[1]}.{number}{name[match.end() :]}" for number in numbers[int(match[2])]]


def _expression_runs(expression: str, teacher: AxisPlan, student: AxisPlan, segments: Segments) -> tuple[Run, ...]:
    """Return the runs of positions that the student keeps, with adjacent runs merged."""
    runs = [
        (term.start + start, length)
        for term in teacher.terms(expression)
        for start, length in _kept_runs(term, teacher.axes[term.axis], student.axes[term.axis])
    ]
    if segments == "contiguous":
        return ((0, sum(length for _, length in runs)),)
    merged: list[Run] = []
    for start, length in runs:
        if merged and sum(merged[-1]) == start:
            merged[-1] = (merged[-1][0], merged[-1][1] + length)
        else:
            merged.append((start, length))
    return tuple(merged)


def _kept_runs(term: Term, long: Axis, short: Axis) -> list[Run]:
    """Return the runs of a term that the student keeps, counted from the start of the term."""
    if long.groups != short.groups:
        raise SrkdError(f"a student with {short.groups} groups cannot be cut from a teacher with {long.groups}")
    per_group, student_per_group = long.size // long.groups, short.size // short.groups
    if student_per_group > per_group:
        raise SrkdError(f"the student's {term.axis} of {short.size} is larger than the teacher's {long.size}")
    if term.operator == "/":
        return [(0, student_per_group)]
    return [(group * per_group * term.number, student_per_group * term.number) for group in range(long.groups)]
