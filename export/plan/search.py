"""The search for the largest shape that meets all targets, by the results of `measure` and `quality`.

A small model of time proposes shapes. Only measurements decide, and only repeated ones: a shape that looked fast in its
first measurement may have been lucky. docs/design/plan.md has the steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Literal, TypeAlias

from compressor.base.choices import Goal
from compressor.base.context import QUIET, Context
from compressor.base.errors import SrkdError, UsageError
from compressor.images.scores import Scores
from export.plan.time_model import TimeModel

MARGIN = 0.10
"""A shape meets a time target if it would still meet it with its time increased by this share."""
TIE = 0.75
"""Shapes with at least this share of the largest one's parameters tie with it: quality decides between them."""
PER_KIND = 8
"""Largest number of shapes of a kind that are measured, as each must be exported."""
NEARLY = 1.3
"""The expected ratio to a target up to which a shape is still measured: the model of time is no more accurate. (On
simulated machines 1.15 finds students with 1 % fewer parameters by 5 % fewer measurements, 2 with 1 % more by 10 %
more.)"""
FINALISTS = 4
LOOKS = 12
"""Number of further measurements of each finalist, in turns; fewer if they take long."""
FINALISTS_SHARE = 1.6
"""Share passed to `enough` for finalists: all measurements may take this many times the time of the first ones."""

ShapeVerdict = Literal["chosen", "meets", "misses", "failed"]


@dataclass(frozen=True)
class Shape:
    """A kind of network, its channels and repeated blocks, and its parameters and MACs, counted without building it.

    `student` is the shape in the form of `--student`.
    """

    kind: str
    width: int
    depth: int
    params: int
    macs: int
    student: str

    @property
    def name(self) -> str:
        return f"{self.kind} {self.width}x{self.depth}"


@dataclass(frozen=True)
class CandidateShape(Shape):
    """A shape that may be chosen; `fits` says whether its quality can be known before training."""

    fits: bool = False


@dataclass(frozen=True)
class ShapeMeasurement:
    """The time of one image in ms, its interval, and the file's size in megabytes (10⁶ bytes)."""

    ms: float
    low: float
    high: float
    megabytes: float


@dataclass(frozen=True)
class Targets:
    """Limits that a student must meet; None: no limit."""

    fps: float | None = None
    ms: float | None = None
    megabytes: float | None = None
    macs: float | None = None

    def __post_init__(self) -> None:
        values = {"--target-fps": self.fps, "--target-ms": self.ms}
        values |= {"--target-mb": self.megabytes, "--target-macs": self.macs}
        limits = {flag: value for flag, value in values.items() if value is not None}
        if not limits:
            raise UsageError(f"a plan needs a target: give {', '.join(values)}, or several of them")
        for flag, value in limits.items():
            if not 0 < value < math.inf:
                raise UsageError(f"{flag} {value:g}: give a number above 0")

    @property
    def most_ms(self) -> float:
        """The longest time of an image in ms; infinite without a target of time."""
        times = [self.ms, None if self.fps is None else 1000 / self.fps]
        return min((time for time in times if time is not None), default=math.inf)

    @property
    def most_macs(self) -> float:
        return math.inf if self.macs is None else self.macs

    def excess(self, ms: float, megabytes: float, macs: float, margin: float) -> float:
        """The largest ratio of a figure to its target, time with a margin; at most 1 if all targets are met."""
        return max(ms * (1 + margin) / self.most_ms, megabytes / (self.megabytes or math.inf), macs / self.most_macs)

    def __str__(self) -> str:
        words = [] if self.fps is None else [f"{self.fps:g} FPS ({1000 / self.fps:.1f} ms)"]
        words += [] if self.ms is None else [f"{self.ms:g} ms"]
        words += [] if self.megabytes is None else [f"{self.megabytes:g} MB"]
        words += [] if self.macs is None else [f"{self.macs / 1e9:.3g} GMAC"]
        return ", ".join(words)


@dataclass(frozen=True)
class PlanRow(Shape):
    """One shape of the plan: its counts, its measurements, and why it was chosen or not."""

    megabytes: float | None
    ms: float | None
    ms_interval: tuple[float, float] | None
    fps: float | None
    psnr_y: float | None
    verdict: ShapeVerdict
    why: str
    psnr_y_teacher: float | None = None
    """Y-PSNR in dB to the teacher's images."""

    @property
    def scores(self) -> Scores:
        return Scores(psnr_y=self.psnr_y, psnr_y_teacher=self.psnr_y_teacher)


@dataclass(frozen=True)
class Plan:
    """The chosen shape, and all measured shapes, the slowest first."""

    targets: Targets
    margin: float
    chosen: PlanRow
    rows: tuple[PlanRow, ...]
    candidates: int
    """Number of shapes to choose from."""
    stopped: bool = False
    """True if time ran out before all shapes that might be larger were tried."""


Measure: TypeAlias = Callable[[CandidateShape], ShapeMeasurement]
"""Function that measures a candidate or raises an `SrkdError`. The first call may be quick. Each later call returns the
result of all later calls, with the range of their results as its interval."""
KnownQuality: TypeAlias = Callable[[CandidateShape], "Scores | None"]
"""Function that returns the scores of a candidate before any training, or None."""


def unknown(candidate: CandidateShape) -> Scores | None:
    """The `quality` of a search that knows none before training."""
    return None


@dataclass
class ShapeSearch:
    """The search of the largest candidate that meets all targets; each one to be tried is measured at least once."""

    candidates: Sequence[CandidateShape]
    targets: Targets
    measure: Measure
    quality: KnownQuality = unknown
    goal: Goal = "original"
    """What the candidates are compared by."""
    margin: float = MARGIN
    remedies: Callable[[float], Sequence[str]] = lambda excess: ()
    """Other ways to reach a target that the fastest candidate exceeds by that factor, for the error."""
    enough: Callable[[float], bool] = lambda share: False
    """Called before each further shape: True once that share of the time is used up."""
    context: Context = QUIET
    measured: dict[CandidateShape, ShapeMeasurement] = field(default_factory=dict)
    failed: dict[CandidateShape, str] = field(default_factory=dict)
    scores: dict[CandidateShape, Scores] = field(default_factory=dict)
    again: set[CandidateShape] = field(default_factory=set)
    stopped: bool = False

    def run(self) -> Plan:
        allowed = [candidate for candidate in self.candidates if candidate.macs <= self.targets.most_macs]
        if not allowed:
            raise SrkdError(self.unreachable_by_macs())
        names = list(dict.fromkeys(candidate.kind for candidate in allowed))
        total = len(names) * PER_KIND
        kinds = [
            _Kind(self, [candidate for candidate in allowed if candidate.kind == name], index * PER_KIND, total)
            for index, name in enumerate(names)
        ]
        for index, kind in enumerate(kinds):
            kind.look((index + 1) / len(kinds))
        self.context.progress("measure shapes", total, total)
        chosen, tied = self.decide(kinds)
        if chosen is None:
            raise SrkdError(self.unreachable())
        return self.plan(chosen, tied)

    def try_one(self, candidate: CandidateShape) -> None:
        try:
            self.measured[candidate] = self.measure(candidate)
        except SrkdError as error:
            self.failed[candidate] = str(error)
            self.measured.pop(candidate, None)

    def excess(self, candidate: CandidateShape) -> float:
        """The largest ratio of a measured candidate's figures to their targets.

        After repeated measurements, which decide, the whole interval must meet the target: on a noisy machine the
        margin alone is not enough.
        """
        figures = self.measured[candidate]
        excess = self.targets.excess(figures.ms, figures.megabytes, candidate.macs, self.margin)
        return max(excess, figures.high / self.targets.most_ms) if candidate in self.again else excess

    def meeting(self) -> list[CandidateShape]:
        """The candidates that meet all targets by their last measurement, the largest first."""
        meeting = [candidate for candidate in self.measured if self.excess(candidate) <= 1]
        return sorted(meeting, key=_size, reverse=True)

    def decide(self, kinds: Sequence[_Kind]) -> tuple[CandidateShape | None, list[CandidateShape]]:
        """Measure finalists again until none is left; return the best by quality of those that tie, and these."""
        while finalists := [candidate for candidate in self.finalists() if candidate not in self.again]:
            met = {candidate for candidate in finalists if self.excess(candidate) <= 1}
            self.measure_again(finalists)
            if dropped := met.difference(self.meeting()):
                for kind in kinds:
                    kind.fill_gap(below=min(dropped, key=_size))
        meeting = [candidate for candidate in self.meeting() if candidate in self.again]
        if not meeting:
            return None, []
        tied = _tied(meeting)
        # The plan also shows the quality of the two largest fittable candidates that meet the targets.
        for candidate in dict.fromkeys((*tied, *[shape for shape in self.meeting() if shape.fits][:2])):
            if (score := self.quality(candidate)) is not None:
                self.scores[candidate] = score
        return max(tied, key=lambda candidate: (self._judge(candidate), *_size(candidate))), tied

    def _judge(self, candidate: CandidateShape) -> float:
        scores = self.scores.get(candidate)
        judged = None if scores is None else scores.by(self.goal)
        return -math.inf if judged is None else judged

    def measure_again(self, finalists: Sequence[CandidateShape]) -> None:
        self.again.update(finalists)
        for look in range(LOOKS):
            if look > 0 and self.enough(FINALISTS_SHARE):
                break
            for number, candidate in enumerate(finalists):
                self.context.progress("measure again", look * len(finalists) + number, LOOKS * len(finalists))
                if candidate in self.measured:
                    self.try_one(candidate)

    def finalists(self) -> list[CandidateShape]:
        """The largest candidates that meet the targets and tie, and the nearest larger ones that almost do."""
        meeting = self.meeting()
        if not meeting:
            nearest = sorted(self.measured, key=self.excess)[:2]
            return [candidate for candidate in nearest if self.excess(candidate) <= NEARLY]
        tied = _tied(meeting)
        # All that are larger than the largest one that meets the targets miss them.
        nearly = [
            shape for shape in self.measured if self.excess(shape) <= 1 + self.margin and _size(shape) > _size(tied[0])
        ]
        return [*tied, *sorted(nearly, key=self.excess)[:2]]

    def plan(self, chosen: CandidateShape, tied: Sequence[CandidateShape]) -> Plan:
        slowest_first = sorted(self.measured, key=lambda tried: -self.measured[tried].ms)
        rows = {candidate: self.row(candidate, *self.verdict(candidate, chosen, tied)) for candidate in slowest_first}
        rows |= {candidate: self.row(candidate, "failed", reason) for candidate, reason in self.failed.items()}
        all_rows = tuple(rows.values())
        return Plan(self.targets, self.margin, rows[chosen], all_rows, len(self.candidates), self.stopped)

    def verdict(
        self, candidate: CandidateShape, chosen: CandidateShape, tied: Sequence[CandidateShape]
    ) -> tuple[ShapeVerdict, str]:
        if self.excess(candidate) > 1:
            return "misses", self.why_not(candidate)
        if candidate is chosen:
            if chosen is tied[0]:
                return "chosen", "the largest that meets the target"
            return "chosen", "best fitted quality of those that tie"
        if candidate in tied:
            known = "no better" if candidate in self.scores else "unknown"
            return "meets", f"ties, and its fitted quality is {known}"
        return "meets", "smaller than the chosen one"

    def why_not(self, candidate: CandidateShape) -> str:
        figures, targets = self.measured[candidate], self.targets
        if figures.ms > targets.most_ms:
            return f"{figures.ms / targets.most_ms:.2f} times the time of the target"
        if figures.ms * (1 + self.margin) > targets.most_ms:
            return f"within {self.margin:.0%} of the target, too near to rely on"
        if candidate in self.again and figures.high > targets.most_ms:
            return f"its interval reaches {figures.high:.1f} ms, over the target: the machine is noisy"
        return f"{figures.megabytes:.2f} MB, more than the target"

    def row(self, candidate: CandidateShape, verdict: ShapeVerdict, why: str) -> PlanRow:
        figures, scores = self.measured.get(candidate), self.scores.get(candidate)
        return PlanRow(
            **{entry.name: getattr(candidate, entry.name) for entry in fields(Shape)},
            megabytes=None if figures is None else figures.megabytes,
            ms=None if figures is None else figures.ms,
            ms_interval=None if figures is None else (figures.low, figures.high),
            fps=None if figures is None else 1000 / figures.ms,
            psnr_y=None if scores is None else scores.psnr_y,
            verdict=verdict,
            why=why,
            psnr_y_teacher=None if scores is None else scores.psnr_y_teacher,
        )

    def unreachable_by_macs(self) -> str:
        if not self.candidates:
            return "there is no shape to choose from that is smaller than the teacher"
        least = min(self.candidates, key=lambda candidate: candidate.macs)
        return (
            f"{self.targets} cannot be reached: the smallest shape, {least.name}, takes {least.macs / 1e9:.3g} GMAC; "
            "give a smaller --lr-size"
        )

    def unreachable(self) -> str:
        """The fastest shape and what would reach the target."""
        if not self.measured:
            return f"no shape could be measured: {next(iter(self.failed.values()), 'none was left')}"
        nearest = min(self.measured, key=self.excess)
        figures = self.measured[nearest]
        words = [f"{self.targets} cannot be reached: the nearest shape, {nearest.name}, takes {figures.ms:.1f} ms"]
        words.append(f"({1000 / figures.ms:.1f} FPS) and {figures.megabytes:.2f} MB")
        if figures.ms <= self.targets.most_ms < figures.ms * (1 + self.margin):
            words.append(f"which leaves less than the margin of {self.margin:.0%}")
        most = max(figures.ms * (1 + self.margin), figures.high if nearest in self.again else 0.0)
        slow = most / self.targets.most_ms
        text, remedies = " ".join(words), list(self.remedies(slow)) if slow > 1 else []
        return f"{text}; what would reach it: {', or '.join(remedies)}" if remedies else text


def _size(candidate: CandidateShape) -> tuple[int, int]:
    return candidate.params, candidate.macs


def _tied(meeting: Sequence[CandidateShape]) -> list[CandidateShape]:
    return [candidate for candidate in meeting if candidate.params >= TIE * meeting[0].params][:FINALISTS]


def _line_through(points: Sequence[tuple[float, float]]) -> Callable[[float], float]:
    """The line through the leftmost and rightmost points: a file has a fixed part and a few bytes per weight."""
    (left, low), (right, high) = min(points), max(points)
    slope = (high - low) / (right - left) if right > left else 0.0
    return lambda x: low + slope * (x - left)


class _Kind:
    """The search among the shapes of one kind of network."""

    def __init__(self, search: ShapeSearch, shapes: Sequence[CandidateShape], done: int, total: int) -> None:
        self.search, self.shapes, self.done, self.total = search, shapes, done, total
        self.attempts: list[CandidateShape] = []

    def look(self, share: float) -> None:
        """Measure the anchors, then the shape that should be the largest to meet the targets, then its neighbours."""
        for candidate in self.anchors():
            self.try_one(candidate)
        while len(self.attempts) < PER_KIND:
            following = self.next()
            if following is None:
                break
            if self.search.enough(share):
                self.search.stopped = True
                break
            self.try_one(following)

    def fill_gap(self, below: CandidateShape) -> None:
        """Measure the largest shape that should meet the targets and is smaller than a finalist that failed them.

        The shapes between that finalist and those known to meet the targets have not been tried yet.
        """
        measured = self.measured()
        if not measured or self.search.enough(FINALISTS_SHARE):
            return
        expected = self.expected(measured)
        least = max((_size(shape) for shape in self.search.meeting()), default=(0, 0))
        gap = [shape for shape in self.shapes if least < _size(shape) < _size(below) and shape not in self.attempts]
        following = max((shape for shape in gap if expected[shape] <= 1), key=_size, default=None)
        if following is not None:
            self.try_one(following)

    def try_one(self, candidate: CandidateShape) -> None:
        if candidate not in self.attempts:
            self.search.context.progress("measure shapes", min(self.done + len(self.attempts), self.total), self.total)
            self.attempts.append(candidate)
            self.search.try_one(candidate)

    def measured(self) -> dict[CandidateShape, ShapeMeasurement]:
        return {shape: self.search.measured[shape] for shape in self.attempts if shape in self.search.measured}

    def anchors(self) -> list[CandidateShape]:
        """The smallest shape, a deeper one of its width and a wider one: the least that the time model needs."""
        least = min(self.shapes, key=lambda shape: (shape.macs, shape.params))
        deeper = [shape for shape in self.shapes if shape.width == least.width and shape.depth >= 4 * least.depth]
        wider = [shape for shape in self.shapes if shape.width >= 2 * least.width]
        nearest = min(wider, key=lambda shape: (shape.width, shape.depth), default=least)
        return list(dict.fromkeys((least, min(deeper, key=lambda shape: shape.depth, default=least), nearest)))

    def next(self) -> CandidateShape | None:
        """The shape to measure next, or None if no larger one could meet the targets."""
        measured = self.measured()
        left = [shape for shape in self.shapes if shape not in self.attempts]
        if not measured:  # every tried shape has failed
            return min(left, key=lambda shape: (shape.macs, shape.params), default=None)
        expected = self.expected(measured)
        best = max((shape for shape in measured if self.search.excess(shape) <= 1), key=_size, default=None)
        larger = [shape for shape in left if best is None or _size(shape) > _size(best)]
        good = [shape for shape in larger if expected[shape] <= 1]
        if good:
            return max(good, key=_size)
        doubtful = [shape for shape in larger if expected[shape] <= NEARLY]
        return min(doubtful, key=expected.__getitem__, default=None)

    def expected(self, measured: Mapping[CandidateShape, ShapeMeasurement]) -> dict[CandidateShape, float]:
        """For each shape the expected ratio to its worst target."""
        model = TimeModel.of([(shape.width, shape.depth, figures.ms) for shape, figures in measured.items()])
        megabytes = _line_through([(shape.params, figures.megabytes) for shape, figures in measured.items()])
        targets, margin = self.search.targets, self.search.margin
        return {
            shape: targets.excess(model.ms(shape.width, shape.depth), megabytes(shape.params), shape.macs, margin)
            for shape in self.shapes
        }
