"""The result of a plan of runs: a row per variant, the gains over the baselines, and evidence of equal batches.

The verdict on a gain is that of the paired differences (`paired.py`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from compressor.base.choices import Goal
from compressor.base.errors import SrkdError
from compressor.images.scores import EQUAL_DB, GOAL_WORDS, Scores
from compressor.inference.metric_table import METRICS
from compressor.models.checkpoints.header import RUN_FOLDER_WEIGHTS
from compressor.models.networks.image_cost import Cost
from srkd.record.paired import FEWEST_SEEDS, GainVerdict, PairedDifference
from srkd.record.reading import Decibels


@dataclass(frozen=True)
class Spread:
    """A mean, and the standard deviation over seeds (n-1) if there are at least two."""

    mean: float
    sd: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        mean = math.fsum(values) / len(values)
        if len(values) < 2:
            return cls(mean, None)
        return cls(mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)))

    def __str__(self) -> str:
        return f"{self.mean:.3f}" + ("" if self.sd is None else f" ± {self.sd:.3f}")


@dataclass(frozen=True)
class Gain:
    """The gain of a recipe over a baseline in dB, from runs on the same batches."""

    over: str
    differences: tuple[Decibels, ...]
    """One for each seed, the means over its images."""
    mean: Decibels
    sd: float | None
    """The standard deviation over seeds."""
    verdict: GainVerdict
    point: str | None = None
    """The point of a sweep whose gain it is."""
    p: float = 1.0
    """The chance of such a gain without a true one, times the rows of the table."""

    @classmethod
    def between(
        cls,
        over: str,
        recipe: Sequence[Sequence[float]],
        baseline: Sequence[Sequence[float]],
        *,
        point: str | None = None,
        rows: int = 1,
        equal_within: float = METRICS["psnr"].equal_within,
    ) -> Gain:
        """Compare the PSNRs of a recipe and a baseline by seed and image, both in the same order; the mean over images
        alone counts as one image. `rows` is how many gains the table has.
        """
        differences = [
            [min(a, EQUAL_DB) - min(b, EQUAL_DB) for a, b in zip(own, other, strict=True)]
            for own, other in zip(recipe, baseline, strict=True)
        ]
        by_seed = tuple(math.fsum(row) / len(row) for row in differences)
        paired, spread = PairedDifference.of(differences), Spread.of(by_seed)
        verdict = paired.verdict(len(differences), equal_within, rows)
        return cls(over, by_seed, spread.mean, spread.sd, verdict, point, min(1.0, rows * paired.p_value()))

    @property
    def above_zero(self) -> int:
        return sum(difference > 0 for difference in self.differences)

    def line(self) -> str:
        name = f"gain over {self.over}"
        if self.point is not None:
            name = f"{self.point}: gain over {self.over.removesuffix(f', {self.point}')}"
        if self.sd is None:
            return f"{name}: {self.mean:+.3f} dB (one seed, spread unknown: --seeds {FEWEST_SEEDS})"
        count = len(self.differences)
        shown = f"p {self.p:.2g}" if count >= FEWEST_SEEDS else f"a verdict takes {FEWEST_SEEDS}"
        return f"{name}: {self.mean:+.3f} ± {self.sd:.3f} dB ({self.verdict}; {count} seeds, {shown})"


@dataclass(frozen=True)
class SameBatches:
    """Evidence that the runs of one seed used the same batches: a hash of those in `rows` rows, up to step `steps`."""

    seed: int
    digest: str
    rows: int
    steps: int
    runs: tuple[str, ...]


@dataclass(frozen=True)
class Outcome:
    """The result of one trial: Y-PSNR in dB on the validation images, to the originals and to the teacher's images."""

    run: str
    variant: str
    seed: int
    psnr_y: float | None
    seconds: float
    psnr_y_teacher: float | None = None
    cost: Cost | None = None

    def by(self, goal: Goal) -> float:
        """The figure by which the trial is judged."""
        psnr = Scores(psnr_y=self.psnr_y, psnr_y_teacher=self.psnr_y_teacher).by(goal)
        if psnr is None:
            raise SrkdError(f"{self.run} has no Y-PSNR {GOAL_WORDS[goal]}, by which the runs of its plan are judged")
        return psnr


@dataclass(frozen=True)
class VariantScores:
    """A recipe or a baseline over its seeds; mean and spread are those of the figure by which students are judged."""

    name: str
    psnr_y: tuple[float | None, ...]
    mean: Decibels
    sd: float | None
    psnr_y_teacher: tuple[float | None, ...] = ()
    cost: Cost | None = None

    @classmethod
    def of(cls, name: str, outcomes: Sequence[Outcome], goal: Goal) -> VariantScores:
        spread = Spread.of([outcome.by(goal) for outcome in outcomes])
        both = [(outcome.psnr_y, outcome.psnr_y_teacher) for outcome in outcomes]
        to_original, to_teacher = zip(*both, strict=True)
        return cls(name, to_original, spread.mean, spread.sd, to_teacher, outcomes[0].cost)


@dataclass(frozen=True)
class TrialsReport:
    """Rows (points of a sweep first, then baselines), gains of points over baselines, and evidence of equal batches."""

    seeds: tuple[int, ...]
    rows: tuple[VariantScores, ...]
    gains: tuple[Gain, ...]
    chosen: Outcome
    runs: tuple[Outcome, ...]
    batches: tuple[SameBatches, ...]
    goal: Goal = "original"
    """What the mean, the gains and the choice are about."""
    points: int = 1
    """How many of the rows are points of a sweep; the others are baselines."""

    @classmethod
    def of(
        cls,
        outcomes: Sequence[Outcome],
        batches: Sequence[SameBatches],
        goal: Goal,
        points: Mapping[str, Sequence[str]],
    ) -> TrialsReport:
        """Build the report from outcomes in the order of the plan, seed by seed, and the baselines of each point."""
        groups: dict[str, list[Outcome]] = {}
        for outcome in outcomes:
            groups.setdefault(outcome.variant, []).append(outcome)
        is_sweep = len(points) > 1
        pairs = [(point, name) for point, baselines in points.items() for name in baselines]
        judged = {name: [[outcome.by(goal)] for outcome in group] for name, group in groups.items()}
        return cls(
            seeds=tuple(dict.fromkeys(outcome.seed for outcome in outcomes)),
            rows=tuple(VariantScores.of(name, groups[name], goal) for name in dict.fromkeys([*points, *groups])),
            gains=tuple(
                Gain.between(name, judged[point], judged[name], point=point if is_sweep else None, rows=len(pairs))
                for point, name in pairs
            ),
            chosen=max((outcome for point in points for outcome in groups[point]), key=lambda each: each.by(goal)),
            runs=tuple(outcomes),
            batches=tuple(batches),
            goal=goal,
            points=len(points),
        )

    @property
    def best_point(self) -> VariantScores:
        return max(self.rows[: self.points], key=lambda row: row.mean)

    def lines(self) -> tuple[str, ...]:
        """The lines below the table: the gains, the best point, and the origin of student.safetensors."""
        gains = tuple(gain.line() for gain in self.gains)
        if self.points > 1:
            point, over = self.best_point, "" if len(self.seeds) == 1 else f" over {len(self.seeds)} seeds"
            return (
                *gains,
                f"best by validation{over}: {point.name} ({Spread(point.mean, point.sd)} dB {GOAL_WORDS[self.goal]})",
                f"{RUN_FOLDER_WEIGHTS} is that of the best single run, {self.chosen.run} "
                f"({self.chosen.by(self.goal):.3f} dB)",
            )
        if len(self.seeds) == 1:
            return gains
        best = f"{self.chosen.by(self.goal):.3f} dB {GOAL_WORDS[self.goal]}, seed {self.chosen.seed}"
        return (
            *gains,
            f"{RUN_FOLDER_WEIGHTS} is the best of {len(self.seeds)} seeds by validation ({best}); "
            "the table has mean ± sd over them",
        )
