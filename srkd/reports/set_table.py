"""Methods on benchmark sets: the scores of each over its seeds, and its paired gains over each baseline.

Importing this module does not import torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from compressor.base.choices import Goal
from compressor.images.scores import GOAL_WORDS, without_network
from compressor.inference.metric_table import DEFAULT_METRICS, METRICS, Metric
from srkd.record.evaluations import BICUBIC, software
from srkd.record.scores import Role
from srkd.record.trials import Gain, Spread
from srkd.reports.methods import MethodRuns, named_value, shared_settings
from srkd.reports.set_scores import Scoring, SetFigures

MAIN = (
    "recipe",
    "start.init",
    "teacher",
    *(f"student.{name}" for name in ("arch", "scale", "width", "depth")),
    *(f"schedule.{name}" for name in ("steps", "batch", "lr_patch", "hr_patch", "rate", "decay")),
)
"""The settings that the line above a table states, if all rows have them with one value."""
RESOLUTIONS = {row.key: 0.5 * 10**-row.digits for row in METRICS.values()}
"""The smallest gains that count: those that tables show."""


@dataclass(frozen=True)
class OverSeeds:
    """A figure of a method on a set: its values in the order of the seeds, their mean and sample standard deviation."""

    mean: float
    sd: float | None
    """None with one seed."""
    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Sequence[float]) -> OverSeeds:
        spread = Spread.of(values)
        return cls(spread.mean, spread.sd, tuple(values))


@dataclass(frozen=True)
class SetRow:
    """A method, the teacher or bicubic. `sets` has its figures by set and key, such as `psnr_y` in dB."""

    name: str
    role: Role
    seeds: tuple[int, ...]
    runs: tuple[str, ...]
    settings: Mapping[str, str]
    """The settings that differ between the methods."""
    sets: Mapping[str, Mapping[str, OverSeeds]]


@dataclass(frozen=True)
class SetGains:
    """The gains of a method over a baseline, by set and key: a difference for each two runs of one plan and seed."""

    method: str
    over: str
    seeds: tuple[int, ...]
    sets: Mapping[str, Mapping[str, Gain]]


@dataclass(frozen=True)
class ScoredSet:
    """The images of a set, and whether its LR images were stored or made."""

    images: int
    digest: str
    lr: str


@dataclass(frozen=True)
class SetTable:
    """The scores of methods on benchmark sets, all by one protocol, and the facts that they share."""

    scale: int
    protocol: str
    self_ensemble: bool
    references: tuple[Goal, ...]
    """What images are compared with; the first is the goal of the runs."""
    data: str
    sets: Mapping[str, ScoredSet]
    metrics: Mapping[str, Mapping[str, str]]
    """Unit and best value of each metric, by its key."""
    settings: Mapping[str, str]
    """The settings that are equal in all methods."""
    software: str
    rows: tuple[SetRow, ...]
    gains: tuple[SetGains, ...]
    left_out: tuple[str, ...] = ()
    """Lines about teachers that are not in the table, and about missing gains."""

    @property
    def title(self) -> str:
        return f"x{self.scale}, {self.protocol}{', self-ensemble' if self.self_ensemble else ''}"

    @property
    def seeds(self) -> tuple[int, ...]:
        """All seeds of the methods."""
        return tuple(sorted({seed for row in self.rows for seed in row.seeds}))

    def columns(self, reference: Goal) -> list[Column]:
        """The columns of a table of one reference."""
        metrics = [METRICS[name] for name in DEFAULT_METRICS]
        return [Column(name, metric, metric.key_to(reference)) for name in self.sets for metric in metrics]

    def rows_to(self, reference: Goal) -> list[SetRow]:
        """The rows of that table: a teacher is not compared with itself."""
        return [row for row in self.rows if reference == "original" or row.role != "teacher"]

    def shared_line(self) -> str:
        """The most important of the settings that all methods share, in a line."""
        return (
            f"all rows: {', '.join(named_value(name, self.settings[name]) for name in MAIN if name in self.settings)}"
        )

    def heading(self, reference: Goal) -> str:
        """The line above a table of one reference."""
        return f"{self.title}, {GOAL_WORDS[reference]}"


@dataclass(frozen=True)
class Column:
    """A metric on a set; `key` is that of its figures."""

    set: str
    metric: Metric
    key: str

    @property
    def title(self) -> str:
        return f"{self.set} {self.metric.title}"

    def show(self, figure: OverSeeds) -> tuple[str, str | None]:
        """Mean and standard deviation in the digits of tables."""
        return self.metric.show(figure.mean), None if figure.sd is None else self.metric.show(figure.sd)

    def show_gain(self, gain: Gain) -> tuple[str, str | None]:
        digits = self.metric.digits
        return f"{gain.mean:+.{digits}f}", None if gain.sd is None else f"{gain.sd:.{digits}f}"


def build_table(methods: Sequence[MethodRuns], scoring: Scoring) -> SetTable:
    """The table of methods in this order, by the scores of their students."""
    scores = scoring.scores()
    figures = {student.run.folder: scores.of(student.sha256) for student in scoring.students}
    known = {sha256: scores.of(sha256) for sha256 in scoring.teachers}
    names = [f"teacher {scoring.teachers[sha256].path.stem}" for sha256, row in known.items() if row]
    names = names if len(names) > 1 else ["teacher" for _ in names]
    gains = [
        gains for baseline in methods for method in methods if (gains := _gains(method, baseline, figures)) is not None
    ]
    left_out = [
        f"the teacher {scoring.teachers[sha256].path.name} is left out: its file is missing or has changed"
        for sha256, row in known.items()
        if not row
    ]
    if not gains:
        left_out.append("no gains: no method shares a seed with a baseline of its plan")
    return SetTable(
        scale=scoring.scale,
        protocol=str(scoring.protocol),
        self_ensemble=scoring.options.self_ensemble,
        references=scoring.references,
        data=str(scoring.options.data),
        sets={
            each.name: ScoredSet(len(each.pairs), scores.conditions[each.name].images, scores.lr_of(each.name))
            for each in scoring.sets
        },
        metrics={row.key: {"unit": row.unit, "best": row.best} for row in map(METRICS.__getitem__, DEFAULT_METRICS)},
        settings=shared_settings(methods),
        software=software(),
        rows=(
            _reference(without_network(scoring.scale), "bicubic", scores.of(BICUBIC)),
            *(_reference(name, "teacher", row) for name, row in zip(names, filter(None, known.values()), strict=True)),
            *(_method_row(method, figures) for method in methods),
        ),
        gains=tuple(gains),
        left_out=tuple(left_out),
    )


def _reference(name: str, role: Role, figures: SetFigures) -> SetRow:
    return SetRow(name, role, (), (), {}, _over_seeds([figures]))


def _method_row(method: MethodRuns, figures: Mapping[Path, SetFigures]) -> SetRow:
    return SetRow(
        name=method.name,
        role="baseline" if all(run.is_baseline for run in method.runs) else "student",
        seeds=tuple(run.seed for run in method.runs),
        runs=tuple(run.run for run in method.runs),
        settings=method.settings,
        sets=_over_seeds([figures[run.folder] for run in method.runs]),
    )


def _over_seeds(figures: Sequence[SetFigures]) -> dict[str, dict[str, OverSeeds]]:
    """The figures of the runs of one method, set by set."""
    return {
        name: {key: OverSeeds.of([each[name][key] for each in figures]) for key in keys}
        for name, keys in figures[0].items()
    }


def _gains(method: MethodRuns, baseline: MethodRuns, figures: Mapping[Path, SetFigures]) -> SetGains | None:
    """The gains of a method on the seeds that it shares with a baseline in one plan; None if there are none."""
    others = {(run.plan, run.seed, run.method): figures[run.folder] for run in baseline.runs}
    pairs = {
        run.seed: (figures[run.folder], others[run.plan, run.seed, over])
        for run in method.runs
        for over in run.baselines
        if (run.plan, run.seed, over) in others
    }
    if not pairs:
        return None

    def gain(name: str, key: str) -> Gain:
        own, theirs = zip(*((mine[name][key], other[name][key]) for mine, other in pairs.values()), strict=True)
        return Gain.between(baseline.name, own, theirs, resolution=RESOLUTIONS[key.removesuffix("_teacher")])

    first, _ = next(iter(pairs.values()))
    sets = {name: {key: gain(name, key) for key in keys} for name, keys in first.items()}
    return SetGains(method.name, baseline.name, tuple(pairs), sets)
