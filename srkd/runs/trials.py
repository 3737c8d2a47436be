"""Trials: the points of a sweep and their baselines over several seeds, as runs of one plan, and what they show.

Without a sweep there is one point, the recipe as it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from compressor.base.context import Context, no_note
from compressor.base.errors import SrkdError, UsageError
from compressor.models.checkpoints.header import FAITHFUL, TEXTURED
from compressor.training.run_files import read_metrics
from compressor.training.run_folder import JOINT_TEACHER, SHEET, STUDENT
from srkd.options.compress import CompressOptions
from srkd.options.sweep import points
from srkd.record.result import CompressReport
from srkd.record.run_file import PlannedRun, PlannedRuns, RunFile
from srkd.record.run_spec import RunSpec
from srkd.record.trials import Outcome, SameBatches, TrialsReport
from srkd.runs.baselines import baselines
from srkd.runs.decide import decide
from srkd.runs.run import new_run_file

TOP_FILES = (STUDENT, SHEET, JOINT_TEACHER, FAITHFUL, TEXTURED)
"""Files of the chosen trial that are copied to the plan's folder, so that verbs accept it as a run folder."""

HASHES = ("batches", "first_pixels")
"""Keys of hashes of the batches in a row of metrics.jsonl."""


@dataclass(frozen=True)
class Variant:
    """A point or a baseline: its label for a person, the name of its folders, and its spec with the first seed."""

    label: str
    name: str
    spec: RunSpec


def plan_trials(options: CompressOptions, context: Context) -> RunFile:
    """run.json of a plan: every point and baseline decided, so that a mistake in one shows before the first run.

    The runs are seed by seed, so that a plan that is stopped early has pairs to compare.
    """
    decided: dict[str, Variant] = {}
    for point in points(options):
        # Only the first point tells what it decides.
        quiet = replace(context, note=no_note) if decided else context
        try:
            spec = decide(point.options, quiet)
        except SrkdError as error:
            if not point.name or type(error) not in (SrkdError, UsageError):
                raise
            raise type(error)(f"--sweep, at {point.label}: {error}") from error
        label = point.label or spec.recipe
        decided[label] = Variant(label, point.name or spec.recipe, spec)
    compared = _compare(decided, context) if options.run.has_baselines else dict.fromkeys(decided, ())
    variants: dict[str, Variant] = {}
    for label, own in decided.items():
        for variant in (own, *compared[label]):
            variants.setdefault(variant.label, variant)
    runs = tuple(
        PlannedRun(
            name=f"{variant.name}-seed{seed}",
            title=f"{variant.label}, seed {seed}",
            variant=variant.label,
            spec=_alone(variant.spec.with_seed(seed)),
        )
        for seed in range(options.training.seed, options.training.seed + options.run.seeds)
        for variant in variants.values()
    )
    baselines_of = {label: tuple(variant.label for variant in found) for label, found in compared.items()}
    first = next(iter(decided.values())).spec
    return new_run_file(first.changed(options=options), trials=PlannedRuns(runs=runs, baselines=baselines_of))


def _alone(spec: RunSpec) -> RunSpec:
    run = replace(spec.options.run, with_baseline=False, baselines=(), seeds=1, sweep=(), jobs=None, on=None)
    return spec.changed(options=replace(spec.options, run=run))


def _compare(decided: Mapping[str, Variant], context: Context) -> dict[str, tuple[Variant, ...]]:
    """The baselines of each point, by its label. Points whose baselines are the same runs share these."""
    wanted = {label: baselines(point.spec, context) for label, point in decided.items()}
    found: list[Variant] = []
    compared: dict[str, tuple[Variant, ...]] = {}
    for label, point in decided.items():
        own = []
        for name, spec in wanted[label].items():
            same = next((variant for variant in found if _is_same_run(variant.spec, spec)), None)
            if same is None:
                is_shared = all(name in others and _is_same_run(others[name], spec) for others in wanted.values())
                names = (name, name) if is_shared else (f"{name}, {label}", f"{name}-{point.name}")
                found.append(same := Variant(*names, spec))
            own.append(same)
        compared[label] = tuple(own)
    return compared


def _is_same_run(one: RunSpec, other: RunSpec) -> bool:
    """Whether two specs decide the same, whatever their options were."""
    return one == other.changed(options=one.options)


def summarise_trials(
    folder: Path, planned: PlannedRuns, results: Sequence[RunFile]
) -> tuple[CompressReport, RunFile, Mapping[str, Path]]:
    """The report of all trials, and run.json and files of the one that is best by validation."""
    outcomes = []
    for run, contents in zip(planned.runs, results, strict=True):
        result = contents.result
        assert result is not None
        outcomes.append(
            Outcome(
                run=run.name,
                variant=run.variant,
                seed=contents.seed,
                psnr_y=result.student.psnr_y,
                seconds=result.seconds,
                psnr_y_teacher=result.student.psnr_y_teacher,
                cost=result.student.cost,
            )
        )
    batches = [_same_batches(folder, runs) for runs in compared_runs(planned)]
    trials = TrialsReport.of(outcomes, batches, results[0].goal, planned.baselines)
    chosen = results[outcomes.index(trials.chosen)]
    assert chosen.result is not None
    report = replace(
        chosen.result,
        run=folder,
        student_path=folder / STUDENT,
        seconds=sum(outcome.seconds for outcome in trials.runs),
        trials=trials,
    )
    return report, chosen, {name: folder / trials.chosen.run / name for name in TOP_FILES}


# Evidence that runs of one seed were trained on the same batches: hashes in the rows of their metrics.


def compared_runs(planned: PlannedRuns) -> tuple[tuple[PlannedRun, ...], ...]:
    """The runs that must see the same batches: those of a point and its baselines with one seed."""
    seeds = dict.fromkeys(_seed_of(run) for run in planned.runs)
    return tuple(
        tuple(run for run in planned.runs if _seed_of(run) == seed and run.variant in (point, *names))
        for seed in seeds
        for point, names in planned.baselines.items()
    )


def require_same_batches(folder: Path, planned: PlannedRuns, finished: int) -> None:
    """Refuse a run that did not see the batches of those that it is compared with; the first `finished` are done."""
    newest, done = planned.runs[finished - 1], planned.runs[:finished]
    for runs in compared_runs(planned):
        if newest in runs:
            _same_batches(folder, [run for run in runs if run in done])


def _seed_of(run: PlannedRun) -> int:
    assert run.spec is not None
    return run.spec.seed


def _same_batches(folder: Path, runs: Sequence[PlannedRun]) -> SameBatches:
    return compare_batches(_seed_of(runs[0]), [folder / run.name for run in runs])


def compare_batches(seed: int, runs: Sequence[Path]) -> SameBatches:
    """Compare the hashes that all runs have; a difference is an error, as a gain would have no meaning.

    A row that one run lacks, because a machine failed before it was on disk, is not compared.
    """
    hashes_of = {run.name: batch_hashes(run) for run in runs}
    (first, hashes), *others = hashes_of.items()
    shared = sorted(set(hashes).intersection(*(other for _, other in others)))
    for key in shared:
        for name, other in others:
            if other[key] != hashes[key]:
                step, kind = key
                raise SrkdError(
                    f"{first} and {name} did not see the same batches up to step {step} "
                    f"({kind} {hashes[key]} and {other[key]}): their difference would not be the recipe's"
                )
    if not shared:
        raise SrkdError(f"{', '.join(hashes_of)}: no metrics.jsonl row has hashes of batches to compare")
    digest = hashlib.blake2b("".join(hashes[key] for key in shared).encode(), digest_size=16).hexdigest()
    return SameBatches(seed, digest, len({step for step, _ in shared}), shared[-1][0], tuple(hashes_of))


def batch_hashes(run: Path) -> Mapping[tuple[int, str], str]:
    """The hashes of a run's batches, by the step and the kind of a row of metrics.jsonl."""
    hashes: dict[tuple[int, str], str] = {}
    for _, row in read_metrics(run):
        hashes.update({(row["step"], name): row[name] for name in HASHES if name in row})
    return hashes
