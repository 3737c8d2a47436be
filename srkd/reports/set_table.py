"""Methods on benchmark sets: the scores of each over its seeds, and its paired gains over each baseline.

Importing this module does not import torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from compressor.base.choices import Goal
from compressor.images.scores import GOAL_WORDS, without_network
from compressor.inference.metric_table import DEFAULT_METRICS, METRICS, Metric
from srkd.record.evaluations import BICUBIC, software
from srkd.record.scores import Role
from srkd.record.trials import Gain, Spread
from srkd.reports.methods import MethodRuns, named_value, shared_settings
from srkd.reports.set_scores import Scoring, SetScores
from srkd.terminal.tables import Table

MAIN = (
    "recipe",
    "start.init",
    "teacher",
    *(f"student.{name}" for name in ("arch", "scale", "width", "depth")),
    *(f"schedule.{name}" for name in ("steps", "batch", "lr_patch", "hr_patch", "rate", "decay")),
)
"""The settings that the line above a table states, if all rows have them with one value."""


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

    name: str
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

    def shared_line(self) -> str:
        """The most important of the settings that all methods share, in a line."""
        return (
            f"all rows: {', '.join(named_value(name, self.settings[name]) for name in MAIN if name in self.settings)}"
        )

    def table(self, reference: Goal) -> Table:
        """The scores by one reference, the best of several methods bold; by the first reference also the gains."""
        metrics = [(name, METRICS[metric]) for name in self.sets for metric in DEFAULT_METRICS]
        rows = [row for row in self.rows if reference == "original" or row.role != "teacher"]
        gains = self.gains if reference == self.references[0] else ()
        cells = [[row.name, str(len(row.seeds) or "-")] for row in rows]
        cells += [[f"{gain.name} over {gain.over}", str(len(gain.seeds))] for gain in gains]
        bold = set()
        for column, (name, metric) in enumerate(metrics, start=2):
            key = metric.key_to(reference)
            means = [metric.show(row.sets[name][key].mean) for row in rows]
            methods = [at for at, row in enumerate(rows) if row.seeds]
            best = max((row.sets[name][key].mean for row in rows if row.seeds), default=0.0)
            bold |= {(at, column) for at in methods if len(methods) > 1 and means[at] == metric.show(best)}
            shown = [_with_spread(mean, row.sets[name][key].sd, metric) for mean, row in zip(means, rows, strict=True)]
            shown += [_gain_cell(gain.sets[name][key], metric) for gain in gains]
            cells = [[*line, cell] for line, cell in zip(cells, shown, strict=True)]
        headings = ["method", "seeds", *(f"{name} {metric.title}" for name, metric in metrics)]
        rules = {sum(not row.seeds for row in rows), len(rows)}
        return Table(headings, cells, f"{self.title}, {GOAL_WORDS[reference]}", bold=bold, rules=rules)

    def latex(self) -> str:
        """The table by the goal of the runs, below its caption: protocol, images, settings, seeds and versions."""
        table, seeds = self.table(self.references[0]), sorted({seed for row in self.rows for seed in row.seeds})
        sets = (f"{name} ({each.images} images, LR {each.lr}, {each.digest[:12]})" for name, each in self.sets.items())
        over = f"mean and sample standard deviation over the seeds {', '.join(map(str, seeds))}"
        gains = "gains on equal seeds: mean and standard deviation, and how many are above zero"
        lines = (f"{table.title}; {over}", f"images: {', '.join(sets)}", self.shared_line(), gains, self.software)
        return table.latex(lines)


def _with_spread(mean: str, sd: float | None, metric: Metric) -> str:
    return mean if sd is None else f"{mean} ± {metric.show(sd)}"


def _gain_cell(gain: Gain, metric: Metric) -> str:
    mean = f"{gain.mean:+.{metric.digits}f}"
    return f"{_with_spread(mean, gain.sd, metric)} ({gain.above_zero}/{len(gain.differences)})"


def build_table(methods: Sequence[MethodRuns], scoring: Scoring) -> SetTable:
    """The table of methods in this order, by the scores of their students."""
    scores = scoring.scores()
    teachers = {sha256: file for sha256, file in scoring.teachers.items() if sha256 in scores}
    names = [f"teacher {file.path.stem}" for file in teachers.values()] if len(teachers) > 1 else ["teacher"]
    gains = [
        gains for baseline in methods for method in methods if (gains := _gains(method, baseline, scores)) is not None
    ]
    left_out = [
        f"the teacher {file.path.name} is left out: its file is missing or has changed"
        for sha256, file in scoring.teachers.items()
        if sha256 not in scores
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
            each.name: ScoredSet(len(each.pairs), scoring.digests[each.name], scores[BICUBIC][each.name].lr)
            for each in scoring.sets
        },
        metrics={row.key: {"unit": row.unit, "best": row.best} for row in map(METRICS.__getitem__, DEFAULT_METRICS)},
        settings=shared_settings(methods),
        software=software(),
        rows=(
            _reference(without_network(scoring.scale), "bicubic", scores[BICUBIC]),
            *(_reference(name, "teacher", scores[sha256]) for name, sha256 in zip(names, teachers, strict=False)),
            *(_method_row(method, scores) for method in methods),
        ),
        gains=tuple(gains),
        left_out=tuple(left_out),
    )


def _reference(name: str, role: Role, scores: SetScores) -> SetRow:
    return SetRow(name, role, (), (), {}, _over_seeds([scores]))


def _method_row(method: MethodRuns, scores: Mapping[str, SetScores]) -> SetRow:
    return SetRow(
        name=method.name,
        role="baseline" if all(run.is_baseline for run in method.runs) else "student",
        seeds=tuple(run.seed for run in method.runs),
        runs=tuple(run.run for run in method.runs),
        settings=method.settings,
        sets=_over_seeds([scores[run.student_sha256] for run in method.runs]),
    )


def _over_seeds(scores: Sequence[SetScores]) -> dict[str, dict[str, OverSeeds]]:
    """The scores of the runs of one method, set by set."""
    return {
        name: {key: OverSeeds.of([each[name].figures[key] for each in scores]) for key in first.figures}
        for name, first in scores[0].items()
    }


def _gains(method: MethodRuns, baseline: MethodRuns, scores: Mapping[str, SetScores]) -> SetGains | None:
    """The gains of a method on the seeds that it shares with a baseline in one plan; None if there are none."""
    others = {(run.plan, run.seed, run.method): scores[run.student_sha256] for run in baseline.runs}
    pairs = {
        run.seed: (scores[run.student_sha256], others[run.plan, run.seed, over])
        for run in method.runs
        for over in run.baselines
        if (run.plan, run.seed, over) in others
    }
    if not pairs:
        return None
    digits = {row.key_to(reference): row.digits for row in METRICS.values() for reference in GOAL_WORDS}

    def gain(name: str, key: str) -> Gain:
        own, other = zip(
            *((one[name].figures[key], two[name].figures[key]) for one, two in pairs.values()), strict=True
        )
        # Smaller gains than tables show do not count.
        return Gain.between(baseline.name, own, other, resolution=0.5 * 10 ** -digits[key])

    first, _ = next(iter(pairs.values()))
    sets = {name: {key: gain(name, key) for key in entry.figures} for name, entry in first.items()}
    return SetGains(method.name, baseline.name, tuple(pairs), sets)
