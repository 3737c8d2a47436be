"""The scores of a run's networks side by side, as every table and chart shows them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from compressor.base.choices import Goal
from compressor.images.scores import GOAL_WORDS, both_goals, without_network
from compressor.models.networks.image_cost import Cost
from srkd.record.result import CompressReport, Quality
from srkd.record.trials import Spread
from srkd.terminal.console import cell, count_cells
from srkd.terminal.tables import Table

ScoreRole = Literal["teacher", "student", "baseline", "start", "bicubic"]


@dataclass(frozen=True)
class Score:
    """A network: its cost at 256×256 LR pixels, and its Y-PSNR in dB over a number of seeds; None: not known."""

    name: str
    role: ScoreRole
    params: int | None = None
    macs: int | None = None
    to_original: Spread | None = None
    to_teacher: Spread | None = None
    seeds: int = 1

    def by(self, goal: Goal) -> Spread | None:
        return self.to_original if goal == "original" else self.to_teacher

    def over(self, other: Score | None, goal: Goal) -> float | None:
        """The mean in dB above that of another network."""
        own, others = self.by(goal), None if other is None else other.by(goal)
        return None if own is None or others is None or self is other else own.mean - others.mean


def of_role(scores: Sequence[Score], role: ScoreRole) -> Score | None:
    return next((score for score in scores if score.role == role), None)


def score_table(scores: Sequence[Score], goal: Goal, title: str) -> Table:
    """The table of networks: first the figure that the student is judged by, then the other one if it is known."""
    shown: list[Goal] = [each for each in both_goals(goal) if any(score.by(each) is not None for score in scores)]
    bicubic, rows = of_role(scores, "bicubic"), []
    for score in scores:
        over, spreads = score.over(bicubic, goal), [score.by(each) for each in shown]
        figures = ["-" if spread is None else str(spread) for spread in spreads]
        counts = count_cells(score.params, score.macs)
        rows.append([score.name, *counts, *figures[:1], cell(over, "{:+.3f}"), *figures[1:], str(score.seeds)])
    first, *others = [f"dB {GOAL_WORDS[each]}" for each in shown] or ["dB"]
    over_plain = f"over {'bicubic' if bicubic is None else bicubic.name}"
    return Table(["network", "params", "GMAC at 256x256", first, over_plain, *others, "seeds"], rows, title)


def scores_of(result: CompressReport) -> list[Score]:
    """The scores of student (or its variants), its start, the teacher and, without a network, bicubic or the input."""
    counts = counts_of(result.student.cost)
    rows: list[Score] = []
    if result.trials is None:
        rows.append(_of_quality(", ".join(filter(None, ("student", result.quantisation))), "student", result.student))
    else:
        trials, chosen = result.trials, result.trials.chosen.variant
        points, baselines = trials.rows[: trials.points], trials.rows[trials.points :]
        # The first student is the one whose file the folder holds.
        for row in (*sorted(points, key=lambda row: row.name != chosen), *baselines):
            role: ScoreRole = "baseline" if row in baselines else "student"
            own = counts_of(row.cost or result.student.cost)
            to_original, to_teacher = spread_of(row.psnr_y), spread_of(row.psnr_y_teacher)
            rows.append(Score(row.name, role, *own, to_original, to_teacher, len(row.psnr_y)))
    if result.untrained is not None:
        before = {"before training": result.untrained.student, "untrained slice": result.untrained.slice}
        for name, psnr in before.items():
            if psnr is None:
                continue
            spread = spread_of([psnr])
            to_original, to_teacher = (spread, None) if result.goal == "original" else (None, spread)
            rows.append(Score(name, "start", *counts, to_original, to_teacher))
    others: dict[str, tuple[ScoreRole, Quality | None]] = {
        "float student": ("baseline", result.float_student),
        "teacher": ("teacher", result.teacher),
        "teacher, joint": ("teacher", result.teacher_joint),
        without_network(result.scale): ("bicubic", result.bicubic),
    }
    return rows + [_of_quality(name, role, quality) for name, (role, quality) in others.items() if quality is not None]


def _of_quality(name: str, role: ScoreRole, quality: Quality) -> Score:
    spreads = spread_of([quality.psnr_y]), spread_of([quality.psnr_y_teacher])
    return Score(name, role, *counts_of(quality.cost), *spreads)


def counts_of(cost: Cost | None) -> tuple[int | None, int | None]:
    """Parameters and multiply-accumulates."""
    return (None, None) if cost is None else (cost.params, cost.macs)


def spread_of(values: Sequence[float | None]) -> Spread | None:
    """Mean and spread of finite figures; None if one is missing."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    return Spread.of(known) if values and len(known) == len(values) else None
