"""The shapes that a plan chooses from: width × depth of the teacher's network and of those that suit any teacher."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from compressor.base.errors import SrkdError
from compressor.models.fitting.across_source import can_follow
from compressor.models.networks.base import Descriptor, Spec
from compressor.models.networks.cost import cost
from compressor.models.networks.image_cost import Cost
from compressor.models.networks.registry import architecture, architectures
from compressor.models.students.students import student_text
from export.plan.search import CandidateShape, Targets

WIDTHS = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256)
"""Widths in channels: multiples of 8, the block size of chips and their libraries; the steps grow with the width."""
DEPTHS = (1, 2, 3, 4, 6, 8, 12, 16, 20, 24, 32)
PER_KIND = 10
"""Number of shapes of each kind for another device, which must time all of them, as no search runs there."""


def list_candidates(teacher: Descriptor, spec: Spec | None, lr_size: tuple[int, int]) -> tuple[CandidateShape, ...]:
    """Every shape once, without those that have more parameters or MACs than the teacher (of a foreign one the `spec`
    is unknown).

    Shapes that suit any teacher come first: they are quick to export. The rest of the search time goes to the teacher's
    own network, whose exports may each take a third of a minute.
    """
    candidates: list[CandidateShape] = []
    for kind in architectures():
        largest = kind.for_any_teacher
        if largest is None or (spec is not None and spec.arch == kind.name):
            continue
        try:
            shape = largest(teacher.scale, teacher.channels)
            candidates += _shapes(shape, lr_size, fits=can_follow(shape))
        except SrkdError:  # the network does not support this scale
            continue
    most: Cost | None = None
    if spec is not None:
        most = cost(spec, lr_size)
        own = replace(spec, scale=teacher.scale)  # of a reduced teacher, a smaller one
        candidates += _shapes(own, lr_size, fits=architecture(spec.arch).linear is not None)
    within = [
        candidate
        for candidate in candidates
        if most is None or (candidate.params <= most.params and candidate.macs <= most.macs)
    ]
    return tuple({candidate.student: candidate for candidate in within}.values())


def spread_out(
    candidates: Sequence[CandidateShape], targets: Targets, per_kind: int = PER_KIND
) -> tuple[CandidateShape, ...]:
    """Some candidates of each kind, evenly from the least to the most MACs on a logarithmic scale."""
    chosen: list[CandidateShape] = []
    allowed = [candidate for candidate in candidates if candidate.macs <= targets.most_macs]
    for kind in dict.fromkeys(candidate.kind for candidate in allowed):
        own = [candidate for candidate in allowed if candidate.kind == kind]
        least, most = (end(candidate.macs for candidate in own) for end in (min, max))
        steps = [least * (most / least) ** (index / max(1, per_kind - 1)) for index in range(per_kind)]
        # Of shapes with the same MACs take the deeper: narrow and deep shapes are better students.
        nearest = (min(own, key=lambda candidate: (abs(candidate.macs / step - 1), -candidate.depth)) for step in steps)
        chosen += dict.fromkeys(nearest)
    return tuple(chosen)


def _shapes(largest: Spec, lr_size: tuple[int, int], *, fits: bool) -> Iterator[CandidateShape]:
    for narrow in _narrowed(largest):
        specs = list(_shortened(narrow))
        counts = _costs([spec for _, spec in specs], [depth for depth, _ in specs], lr_size)
        width = _width(narrow)
        for (depth, spec), count in zip(specs, counts, strict=True):
            yield CandidateShape(spec.arch, width, depth, count.params, count.macs, student_text(spec), fits)


def _narrowed(largest: Spec) -> list[Spec]:
    """The spec at each possible width, the narrowest first and the full one last."""
    whole = _width(largest)
    specs: dict[int, Spec] = {}
    for width in WIDTHS:
        if width < whole:
            try:
                narrow = largest.narrowed(width / whole)
            except SrkdError:  # such as a SwinIR whose groups differ in heads: by depth alone
                continue
            specs.setdefault(_width(narrow), narrow)
    # Units (heads, groups) may round to another width than the requested one.
    return [*specs.values(), largest]


def _shortened(spec: Spec) -> Iterator[tuple[int, Spec]]:
    """Yield the spec at each depth, the shallowest first; only depth 1 if its depth cannot change."""
    whole = _depth(spec)
    if whole == 1:
        yield 1, spec
        return
    for depth in (*(depth for depth in DEPTHS if depth < whole), whole):
        yield depth, spec if depth == whole else spec.shortened(depth / whole)


def _width(spec: Spec) -> int:
    return architecture(spec.arch).axes(spec).axes["width"].size


def _depth(spec: Spec) -> int:
    """The number of a spec's blocks that `shortened` can remove, kept ones included; 1 if it has no depth."""
    try:
        shortest = spec.shortened(1e-6)
    except SrkdError:
        return 1
    axes = architecture(spec.arch).axes
    pairs = zip(axes(spec).repeats, axes(shortest).repeats, strict=True)
    return max((long.count for long, short in pairs if long.count != short.count), default=1)


def _costs(specs: Sequence[Spec], depths: Sequence[int], lr_size: tuple[int, int]) -> list[Cost]:
    """The costs of specs that differ only in depth: two are counted, as each further block costs the same."""
    if len(specs) <= 2:
        return [cost(spec, lr_size) for spec in specs]
    first, second = (cost(spec, lr_size) for spec in specs[:2])

    def at(depth: int) -> Cost:
        def line(low: int, high: int) -> int:
            return low + (high - low) * (depth - depths[0]) // (depths[1] - depths[0])

        plus = line(first.macs_plus, second.macs_plus)
        return Cost(line(first.params, second.params), line(first.macs, second.macs), plus, lr_size)

    return [at(depth) for depth in depths]
