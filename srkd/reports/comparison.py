"""What a comparison of methods holds and shows: their scores over seeds, and their gains on equal seeds.

Importing this module does not import torch.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from compressor.base.choices import Goal
from compressor.images.scores import GOAL_WORDS
from compressor.inference.metric_table import DEFAULT_METRICS, METRICS, Metric
from srkd.record.code import listed
from srkd.record.scores import Score, ScoreRole
from srkd.record.trials import Gain, Spread
from srkd.reports.methods import named_value
from srkd.terminal.console import count_cells
from srkd.terminal.tables import Table

MAIN = (
    "recipe",
    "start.init",
    "teacher",
    *(f"student.{name}" for name in ("arch", "scale", "width", "depth")),
    *(f"schedule.{name}" for name in ("steps", "batch", "lr_patch", "hr_patch", "rate", "decay")),
)
"""The settings that the line above a table states, if all rows have them with one value."""

SetFigures: TypeAlias = Mapping[str, Mapping[str, Sequence[float]]]
"""The figures of a network by set and key, such as `psnr_y` in dB: those of all images, or their mean alone."""


@dataclass(frozen=True)
class SetScores:
    """What is compared: figures of bicubic, of teachers by name, and of students by their folders."""

    protocol: str
    sets: Mapping[str, str]
    """How many images each set has, and where its LR images come from, with the digest of a benchmark set."""
    bicubic: SetFigures
    teachers: Mapping[str, SetFigures]
    students: Mapping[Path, SetFigures]
    left_out: tuple[str, ...] = ()
    """Lines about teachers that could not be scored."""


@dataclass(frozen=True)
class OverSeeds(Spread):
    """A figure of a method on a set: its values in the order of the seeds, and their spread."""

    values: tuple[float, ...]


@dataclass(frozen=True)
class ComparedNetwork:
    """A method over its seeds, the teacher or bicubic."""

    name: str
    role: ScoreRole
    seeds: tuple[int, ...]
    runs: tuple[str, ...]
    params: int | None
    macs: int | None
    settings: Mapping[str, str]
    """The settings that differ between the methods."""
    sets: Mapping[str, Mapping[str, OverSeeds]]


@dataclass(frozen=True)
class ComparedGain:
    """The gains of a method over another by set and key: one difference for each seed that both have."""

    name: str
    over: str
    seeds: tuple[int, ...]
    sets: Mapping[str, Mapping[str, Gain]]


@dataclass(frozen=True)
class Comparison:
    """Bicubic, teachers and methods, the best first by the first set, and the facts that they share."""

    scale: int
    protocol: str
    goal: Goal
    references: tuple[Goal, ...]
    """What images are compared with; the first is the goal of the runs."""
    sets: Mapping[str, str]
    """How many images each set has, and where its LR images come from."""
    settings: Mapping[str, str]
    """The settings that are equal in all methods."""
    software: str
    rows: tuple[ComparedNetwork, ...]
    gains: tuple[ComparedGain, ...]
    """Gains over the baselines of a plan; without a baseline, of the best method over each other."""
    differences: tuple[str, ...]
    """What differs between the runs besides method and seed: settings, source and versions, each with its values."""
    left_out: tuple[str, ...]
    """Lines about what is not in the table."""

    @property
    def methods(self) -> tuple[ComparedNetwork, ...]:
        return tuple(row for row in self.rows if row.seeds)

    @property
    def scores(self) -> list[Score]:
        first, scores = next(iter(self.sets)), []
        for row in self.rows:
            figures = (row.sets[first].get(METRICS["psnr"].key_to(each)) for each in ("original", "teacher"))
            original, teacher = figures
            scores.append(Score(row.name, row.role, row.params, row.macs, original, teacher, len(row.seeds)))
        return scores

    def shared_line(self) -> str:
        """The most important of the settings that all methods share, in a line."""
        shared = (named_value(name, self.settings[name]) for name in MAIN if name in self.settings)
        return f"all rows: {', '.join(shared)}"

    def table(self, reference: Goal) -> Table:
        """The figures by one reference, the best of several methods bold; by the first reference also the gains."""
        rows = [row for row in self.rows if reference == "original" or row.role != "teacher"]
        gains = self.gains if reference == self.references[0] else ()
        cells = [[row.name, str(len(row.seeds) or "-"), *count_cells(row.params, row.macs)] for row in rows]
        cells += [[f"{each.name} over {each.over}", str(len(each.seeds)), "", ""] for each in gains]
        headings, bold = ["method", "seeds", "params", "GMAC at 256x256"], set()
        for name, metric in itertools.product(self.sets, map(METRICS.__getitem__, DEFAULT_METRICS)):
            if (key := metric.key_to(reference)) not in self.methods[0].sets[name]:
                continue
            figures = [row.sets[name][key] for row in rows]
            of_methods = {at: metric.show(figures[at].mean) for at, row in enumerate(rows) if row.seeds}
            best = max(of_methods.values(), key=float)
            bold |= {(at, len(headings)) for at, mean in of_methods.items() if mean == best and len(of_methods) > 1}
            shown = [_with_spread(metric.show(figure.mean), figure.sd, metric) for figure in figures]
            for gain in (each.sets[name][key] for each in gains):
                mean = _with_spread(f"{gain.mean:+.{metric.digits}f}", gain.sd, metric)
                shown.append(f"{mean} ({gain.above_zero}/{len(gain.differences)})")
            cells = [[*line, cell] for line, cell in zip(cells, shown, strict=True)]
            headings.append(f"{name} {metric.title}")
        rules = {len(rows) - len(self.methods), len(rows)}
        return Table(
            headings, cells, f"x{self.scale}, {self.protocol}, {GOAL_WORDS[reference]}", bold=bold, rules=rules
        )

    def latex(self) -> str:
        """The table by the goal of the runs, below its caption: protocol, images, settings, verdicts, versions."""
        table, seeds = self.table(self.goal), sorted({seed for row in self.rows for seed in row.seeds})
        sets = (f"{name} ({images})" for name, images in self.sets.items())
        lines = (
            f"{table.title}; {'mean and sample standard deviation over the seeds' if seeds[1:] else 'seed'} "
            f"{', '.join(map(str, seeds))}",
            f"images: {', '.join(sets)}",
            self.shared_line(),
            "gains on equal seeds: mean and standard deviation, and how many are above zero",
            *self.lines(),
            self.software,
        )
        return table.latex(lines)

    def lines(self) -> tuple[str, ...]:
        """The lines below the table: whether gains exceed their spread, how the runs differ, what is left out."""
        first, key = next(iter(self.sets)), METRICS["psnr"].key_to(self.goal)
        gains = [f"{gain.name} on {first}: {gain.sets[first][key].line()}" for gain in self.gains]
        differ = f"besides method and seed, the runs differ in {listed(self.differences)}"
        return (*gains, *([differ] if self.differences else ()), *self.left_out)


def _with_spread(mean: str, sd: float | None, metric: Metric) -> str:
    return mean if sd is None else f"{mean} ± {metric.show(sd)}"
