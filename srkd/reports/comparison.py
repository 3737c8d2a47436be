"""Comparison of methods, each over its seeds, by their run folders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from compressor.base.choices import Goal
from compressor.base.errors import SrkdError, UsageError
from compressor.images.scores import without_network
from compressor.models.checkpoints.header import RUN_FOLDER_FACTS
from srkd.record.code import listed, short
from srkd.record.scores import Role, Score, score_table, spread_of
from srkd.record.trials import Gain, Spread
from srkd.reports.contents import Contents
from srkd.reports.methods import MethodRuns, Trained, group_methods, trained_runs
from srkd.reports.set_table import SetTable
from srkd.terminal.tables import Table

SAME_BICUBIC_DB = 0.002
"""Largest difference in dB between bicubic scores of the same images, by rounding, also between machines."""
MOST_NAMED = 2
"""The most runs that are named beside a value."""


@dataclass(frozen=True)
class MethodScores:
    """A method over its seeds; Y-PSNR in dB on the validation images. `judged` are the figures by the goal, of which
    mean, spread and differences are.
    """

    name: str
    seeds: tuple[int, ...]
    psnr_y: tuple[float | None, ...]
    psnr_y_teacher: tuple[float | None, ...]
    judged: tuple[float, ...]
    mean: float
    sd: float | None
    over_bicubic: float
    below_teacher: float | None
    params: int | None
    macs: int | None
    steps: int | None
    runs: tuple[str, ...]

    @property
    def score(self) -> Score:
        """The row of the method in tables and charts."""
        to_original, to_teacher = spread_of(self.psnr_y), spread_of(self.psnr_y_teacher)
        return Score(self.name, "student", self.params, self.macs, to_original, to_teacher, len(self.seeds))


@dataclass(frozen=True)
class Comparison:
    """Methods, the best first, and the facts that they share."""

    scale: int
    protocol: str
    goal: Goal
    """What all figures are about: nearness to the originals, or to the teacher's images."""
    validation: tuple[str, ...]
    bicubic: float
    teacher: float | None
    methods: tuple[MethodScores, ...]
    gains: tuple[Gain, ...]
    """Gains of the best method over each other that shares seeds with it."""
    references: tuple[Score, ...]
    """The teacher, and what is shown without a network."""
    differences: tuple[str, ...]
    """What differs between the runs besides method and seed: settings, source and versions, each with its values."""
    left_out: tuple[str, ...]
    """Lines about unfinished runs, which are not in the table."""
    sets: SetTable | None = None
    """The methods on benchmark sets; None without `data`."""

    @property
    def scores(self) -> list[Score]:
        """The rows of the table: the teacher, the methods, then what is shown without a network."""
        return [*self.references[:-1], *(method.score for method in self.methods), *self.references[-1:]]

    def table(self, title: str) -> Table:
        return score_table(self.scores, self.goal, title)

    def lines(self) -> tuple[str, ...]:
        """The lines below the table."""
        best = self.methods[0].name
        return (*(f"{best}: {gain.line()}" for gain in self.gains), *self.remarks())

    def remarks(self) -> tuple[str, ...]:
        """What else a reader of a table must know: how the runs differ, and which are not in it."""
        differ = f"besides method and seed, the runs differ in {listed(self.differences)}"
        return (*([differ] if self.differences else ()), *self.left_out)


def compare_contents(runs: Sequence[Contents]) -> Comparison:
    """Compare runs; refuse runs that are not comparable, naming the difference in one line."""
    paths = [run.path.resolve() for run in runs]
    twice = next((run.path for run, path in zip(runs, paths, strict=True) if paths.count(path) > 1), None)
    if twice is not None:
        raise UsageError(f"{twice} is named twice: name each run once")
    finished = [run for run in runs if run.unfinished is None]
    left_out = [
        f"{run.name} is left out: {line}" for run in runs if (line := run.unfinished_line(str(run.path))) is not None
    ]
    if not finished:
        raise SrkdError(f"nothing to compare: {'; '.join(left_out)}")
    _require_alike(finished)
    trained = trained_runs(finished)
    first = finished[0]
    bicubic, teacher = (_judged(first, role) for role in ("bicubic", "teacher"))
    if not trained or bicubic is None:
        raise SrkdError(
            f"{first.path / RUN_FOLDER_FACTS} does not say what its networks scored: it was written by another program"
        )
    scores = (_scores(method, bicubic, teacher) for method in group_methods(trained))
    methods = sorted(scores, key=lambda method: method.mean, reverse=True)
    gains = [gain for other in methods[1:] if (gain := _gain(methods[0], other)) is not None]
    return Comparison(
        scale=_scale(first),
        protocol=trained[0].result.protocol,
        goal=first.goal,
        validation=first.validation,
        bicubic=bicubic,
        teacher=teacher,
        methods=tuple(methods),
        gains=tuple(gains),
        references=tuple(score for score in first.scores if score.role in ("teacher", "bicubic")),
        differences=_differences(trained),
        left_out=tuple(left_out),
    )


def _judged(run: Contents, role: Role) -> float | None:
    """The Y-PSNR in dB of a network by the run's goal."""
    score = run.score(role)
    spread = None if score is None else score.by(run.goal)
    return None if spread is None else spread.mean


def _scale(run: Contents) -> int:
    return run.file.student.scale


def _require_alike(runs: Sequence[Contents]) -> None:
    """Refuse runs of different scales, protocols or images."""
    first = runs[0]
    for run in runs[1:]:
        both = (first, run)
        facts = {
            "scale": [str(_scale(each)) for each in both],
            "goal": [str(each.goal) for each in both],
            "validation protocol": [str(each.protocol) for each in both],
            "validation images": [", ".join(each.validation) for each in both],
            "training images": [each.file.data.digest for each in both],
        }
        for what, (own, other) in facts.items():
            if own != other:
                raise UsageError(
                    f"{first.name} and {run.name} cannot be compared: their {what} differ{'s' * (what[-1] != 's')} "
                    f"({own} and {other})"
                )
        bicubic = [_judged(each, "bicubic") for each in both]
        if None in bicubic or abs((bicubic[0] or 0.0) - (bicubic[1] or 0.0)) > SAME_BICUBIC_DB:
            raise UsageError(
                f"{first.name} and {run.name} cannot be compared: {without_network(_scale(run))} has {bicubic[0]} and "
                f"{bicubic[1]} dB on their validation images, so these are not the same"
            )


def _scores(method: MethodRuns, bicubic: float, teacher: float | None) -> MethodScores:
    first, students = method.runs[0], [row.result.student for row in method.runs]
    judged = tuple(value for each in students if (value := each.scores.by(first.result.goal)) is not None)
    spread, cost = Spread.of(judged), first.result.student.cost
    return MethodScores(
        name=method.name,
        seeds=tuple(row.seed for row in method.runs),
        psnr_y=tuple(each.psnr_y for each in students),
        psnr_y_teacher=tuple(each.psnr_y_teacher for each in students),
        judged=judged,
        mean=spread.mean,
        sd=spread.sd,
        over_bicubic=spread.mean - bicubic,
        below_teacher=None if teacher is None else teacher - spread.mean,
        params=None if cost is None else cost.params,
        macs=None if cost is None else cost.macs,
        steps=first.result.steps,
        runs=tuple(row.run for row in method.runs),
    )


def _differences(trained: Sequence[Trained]) -> tuple[str, ...]:
    """Each key of settings, sources and versions that two runs have with different values, and code that changed.

    A key that a run does not have, such as an option of another method, is no difference; a run whose run.json does not
    state its source differs from one that does.
    """
    lines = []
    facts = [(row.run, {**row.settings, **row.sources, **row.versions}) for row in trained]
    for key in dict.fromkeys(key for _, values in facts for key in values):
        runs: dict[str, list[str]] = {}
        for run, values in facts:
            if key in values:
                runs.setdefault(short(values[key]), []).append(run)
        if len(runs) > 1:
            lines.append(f"{key}: {', '.join(f'{value} ({_named(names)})' for value, names in runs.items())}")
    silent = [row.run for row in trained if row.file.code is None]
    if 0 < len(silent) < len(trained):
        lines.append(f"source: not recorded in {_named(silent)}")
    continued = [(row.run, entry) for row in trained if row.file.code for entry in row.file.code.continued]
    return (*lines, *(f"code of {run} within the run, {entry}" for run, entry in continued))


def _named(runs: Sequence[str]) -> str:
    """The first runs by name, and the number of the others."""
    return ", ".join(runs[:MOST_NAMED]) + (f" and {len(runs) - MOST_NAMED} more" if len(runs) > MOST_NAMED else "")


def _gain(best: MethodScores, other: MethodScores) -> Gain | None:
    """The gain of the best over another method on their shared seeds; None if they share none."""
    own, others = dict(zip(best.seeds, best.judged, strict=True)), dict(zip(other.seeds, other.judged, strict=True))
    shared = [seed for seed in own if seed in others]
    if not shared:
        return None
    return Gain.between(other.name, [own[seed] for seed in shared], [others[seed] for seed in shared])
