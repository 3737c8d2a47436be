"""Runs compared as methods over their seeds, by their own validation or by scores on benchmark sets.

Importing this module does not import torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import TypeAlias

from compressor.base.choices import Goal
from compressor.base.errors import SrkdError, UsageError
from compressor.images.scores import GOAL_WORDS, Scores, both_goals, set_mean, without_network
from compressor.inference.metric_table import DEFAULT_METRICS, METRICS
from compressor.models.checkpoints.header import RUN_FOLDER_FACTS
from compressor.models.networks.image_cost import Cost
from srkd.record.code import listed, short
from srkd.record.evaluations import software
from srkd.record.result import Quality
from srkd.record.scores import ScoreRole, counts_of
from srkd.record.trials import Gain, Spread
from srkd.reports.comparison import ComparedGain, ComparedNetwork, Comparison, OverSeeds, SetFigures, SetScores
from srkd.reports.contents import Contents
from srkd.reports.methods import MethodRuns, Trained, group_methods, shared_settings, trained_runs

SAME_BICUBIC_DB = 0.002
"""Largest difference in dB between bicubic scores of the same images, by rounding, also between machines."""
VALIDATION = "validation"

Scorer: TypeAlias = Callable[[Sequence[Trained], Contents], SetScores]


def compare_contents(runs: Sequence[Contents], score: Scorer | None = None) -> Comparison:
    """Compare runs by their validation, or by what `score` gives; refuse runs that are not comparable in one line."""
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
    first, trained = finished[0], trained_runs(finished)
    scores = (score or _validation_scores)(trained, first)
    known = set.intersection(*(set(figures) for sets in scores.students.values() for figures in sets.values()))
    references: tuple[Goal, ...] = tuple(
        each for each in both_goals(first.goal) if known & {METRICS[name].key_to(each) for name in DEFAULT_METRICS}
    )
    if first.goal not in references:
        raise SrkdError(
            f"{first.path / RUN_FOLDER_FACTS} does not say what its networks scored: it was written by another program"
        )
    name, key = next(iter(scores.sets)), METRICS["psnr"].key_to(first.goal)
    methods = [(_method_row(group, scores), group) for group in group_methods(trained)]
    methods.sort(key=lambda method: -method[0].sets[name][key].mean)
    groups = [group for _, group in methods]
    gains = _gains(groups, scores)
    teacher = trained[0].result.teacher
    cost = None if teacher is None or len(scores.teachers) > 1 else teacher.cost
    return Comparison(
        scale=first.file.student.scale,
        protocol=scores.protocol,
        goal=first.goal,
        references=references,
        sets=scores.sets,
        settings=shared_settings(groups),
        software=software(),
        rows=(
            _reference(without_network(first.file.student.scale), "bicubic", scores.bicubic),
            *(_reference(name, "teacher", figures, cost) for name, figures in scores.teachers.items()),
            *(row for row, _ in methods),
        ),
        gains=gains,
        differences=_differences(trained),
        left_out=(*left_out, *scores.left_out, *([] if gains else ["no gains: no two methods share a seed"])),
    )


def _validation_scores(trained: Sequence[Trained], first: Contents) -> SetScores:
    def figures(quality: Quality) -> SetFigures:
        sets = quality.sets or {VALIDATION: quality}
        return {
            name: {each.name: [figure] for each in fields(Scores) if (figure := getattr(row, each.name)) is not None}
            for name, row in sets.items()
        }

    result, images = trained[0].result, list(first.file.data.validation)
    names = {name: [image for image in images if image.startswith(f"{name}/")] for name in result.student.sets}
    return SetScores(
        protocol=result.protocol,
        sets={name: f"{len(own)} images, of the runs" for name, own in (names or {VALIDATION: images}).items()},
        bicubic=figures(result.bicubic),
        teachers={} if result.teacher is None else {"teacher": figures(result.teacher)},
        students={run.folder: figures(run.result.student) for run in trained},
    )


def _require_alike(runs: Sequence[Contents]) -> None:
    first = runs[0]
    for run in runs[1:]:
        both = (first, run)
        facts = {
            "scale": [str(each.file.student.scale) for each in both],
            "goal": [str(each.goal) for each in both],
            "validation protocol": [str(each.protocol) for each in both],
            "validation images": [", ".join(each.file.data.validation) for each in both],
            "training images": [each.file.data.digest for each in both],
        }
        for what, (own, other) in facts.items():
            if own != other:
                raise UsageError(
                    f"{first.name} and {run.name} cannot be compared: their {what} differ{'s' * (what[-1] != 's')} "
                    f"({own} and {other})"
                )
        spreads = [None if (score := each.score("bicubic")) is None else score.by(each.goal) for each in both]
        bicubic = [spread and spread.mean for spread in spreads]
        if None in bicubic or abs((bicubic[0] or 0.0) - (bicubic[1] or 0.0)) > SAME_BICUBIC_DB:
            raise UsageError(
                f"{first.name} and {run.name} cannot be compared: {without_network(run.file.student.scale)} has "
                f"{bicubic[0]} and {bicubic[1]} dB on their validation images, so these are not the same"
            )


def _reference(name: str, role: ScoreRole, figures: SetFigures, cost: Cost | None = None) -> ComparedNetwork:
    return ComparedNetwork(name, role, (), (), *counts_of(cost), {}, _over_seeds([figures]))


def _method_row(group: MethodRuns, scores: SetScores) -> ComparedNetwork:
    params, macs = counts_of(group.runs[0].result.student.cost)
    return ComparedNetwork(
        name=group.name,
        role="baseline" if all(run.is_baseline for run in group.runs) else "student",
        seeds=tuple(run.seed for run in group.runs),
        runs=tuple(run.run for run in group.runs),
        params=params,
        macs=macs,
        settings=group.settings,
        sets=_over_seeds([scores.students[run.folder] for run in group.runs]),
    )


def _over_seeds(runs: Sequence[SetFigures]) -> dict[str, dict[str, OverSeeds]]:
    def over(name: str, key: str) -> OverSeeds:
        values = tuple(set_mean(run[name][key]) for run in runs)
        spread = Spread.of(values)
        return OverSeeds(spread.mean, spread.sd, values)

    return {name: {key: over(name, key) for key in figures} for name, figures in runs[0].items()}


def _gains(groups: Sequence[MethodRuns], scores: SetScores) -> tuple[ComparedGain, ...]:
    """The gains of methods over the baselines of their plans; if there are none, of the best method over each other."""
    pairs = [(method, over, _pairs(method, over, of_plan=True)) for over in groups for method in groups]
    if not any(runs for _, _, runs in pairs):
        pairs = [(groups[0], over, _pairs(groups[0], over, of_plan=False)) for over in groups[1:]]
    pairs = [each for each in pairs if each[-1]]
    return tuple(_gain(*each, scores, rows=len(pairs)) for each in pairs)


def _pairs(method: MethodRuns, over: MethodRuns, *, of_plan: bool) -> list[tuple[Trained, Trained]]:
    """The runs of both with one seed; `of_plan`: of one plan, in which the other is a baseline."""
    pairs = [(run, other) for run in method.runs for other in over.runs if other.seed == run.seed]
    return [(a, b) for a, b in pairs if not of_plan or (b.plan == a.plan and b.method in a.baselines)]


def _gain(
    method: MethodRuns, over: MethodRuns, pairs: Sequence[tuple[Trained, Trained]], scores: SetScores, rows: int
) -> ComparedGain:
    figures = [(scores.students[run.folder], scores.students[other.folder]) for run, other in pairs]
    equal_within = {row.key_to(reference): row.equal_within for row in METRICS.values() for reference in GOAL_WORDS}

    def gain(name: str, key: str) -> Gain:
        own, others = zip(*((one[name][key], two[name][key]) for one, two in figures), strict=True)
        return Gain.between(over.name, own, others, rows=rows, equal_within=equal_within[key])

    return ComparedGain(
        name=method.name,
        over=over.name,
        seeds=tuple(run.seed for run, _ in pairs),
        sets={
            name: {key: gain(name, key) for key in keys if key in figures[0][1][name]}
            for name, keys in figures[0][0].items()
        },
    )


def _differences(trained: Sequence[Trained]) -> tuple[str, ...]:
    """Each key of settings, sources and versions that two runs have with different values, and code that changed.

    A key that a run does not have, such as an option of another method, is no difference.
    """
    lines = []
    facts = [(row.run, {**row.settings, **row.sources, **row.versions}) for row in trained]
    for key in dict.fromkeys(key for _, values in facts for key in values):
        runs: dict[str, list[str]] = {}
        for run, values in facts:
            if key in values:
                runs.setdefault(short(values[key]), []).append(run)
        if len(runs) > 1:
            named = (f"{value} ({listed(names, 2, ',')})" for value, names in runs.items())
            lines.append(f"{key}: {', '.join(named)}")
    continued = [(row.run, entry) for row in trained if row.file.code for entry in row.file.code.continued]
    return (*lines, *(f"code of {run} within the run, {entry}" for run, entry in continued))
