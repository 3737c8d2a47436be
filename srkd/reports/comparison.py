"""Comparison of methods, each over its seeds, by their run folders."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from compressor.base.errors import SrkdError, UsageError
from compressor.training.run_folder import FACTS
from srkd.record.run_file import RunFile, read_for_display
from srkd.record.trials import Gain, Spread
from srkd.reports.contents import Contents

SAME_BICUBIC_DB = 0.002
"""Largest difference in dB between bicubic scores of the same images, by rounding, also between machines."""
SEED_MARK = "-seed"


@dataclass(frozen=True)
class Trained:
    """One finished run: a method with one seed."""

    run: str
    method: str
    seed: int
    psnr_y: float
    params: int | None
    macs: int | None
    steps: int | None
    settings: str
    """All other settings that decide the result, as text: runs with equal settings are seeds of one method."""


@dataclass(frozen=True)
class MethodScores:
    """A method over its seeds; Y-PSNR in dB on the validation images."""

    name: str
    seeds: tuple[int, ...]
    psnr_y: tuple[float, ...]
    mean: float
    sd: float | None
    over_bicubic: float
    below_teacher: float | None
    params: int | None
    macs: int | None
    steps: int | None
    runs: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """Methods, the best first, and the facts that they share."""

    scale: int
    protocol: str
    validation: tuple[str, ...]
    bicubic: float
    teacher: float | None
    methods: tuple[MethodScores, ...]
    gains: tuple[Gain, ...]
    """Gains of the best method over each other that shares seeds with it."""
    left_out: tuple[str, ...]
    """Lines about unfinished runs, which are not in the table."""

    def lines(self) -> tuple[str, ...]:
        """Return the lines below the table."""
        best = self.methods[0].name
        return (*(f"{best}: {gain.line()}" for gain in self.gains), *self.left_out)


def compare_contents(runs: Sequence[Contents]) -> Comparison:
    """Compare runs; refuse runs that are not comparable, naming the difference in one line."""
    paths = [run.path.resolve() for run in runs]
    twice = next((run.path for run, path in zip(runs, paths, strict=True) if paths.count(path) > 1), None)
    if twice is not None:
        raise UsageError(f"{twice} is named twice: name each run once")
    finished = [run for run in runs if run.unfinished is None]
    left_out = [f"{run.name} is left out: {run.unfinished}" for run in runs if run.unfinished is not None]
    if not finished:
        raise SrkdError(f"nothing to compare: {'; '.join(left_out)}")
    _require_alike(finished)
    trained = [one for run in finished for one in _trained(run)]
    bicubic, teacher = (_psnr(finished[0], role) for role in ("bicubic", "teacher"))
    first = finished[0]
    if not trained or bicubic is None or first.scale is None or first.protocol is None:
        raise SrkdError(
            f"{first.path / FACTS} does not say what its networks scored: it was written by another program"
        )
    methods = sorted(_methods(trained, bicubic, teacher), key=lambda method: method.mean, reverse=True)
    gains = [gain for other in methods[1:] if (gain := _gain(methods[0], other)) is not None]
    return Comparison(
        first.scale, first.protocol, first.validation, bicubic, teacher, tuple(methods), tuple(gains), tuple(left_out)
    )


def _psnr(run: Contents, role: str) -> float | None:
    return next((score.psnr_y for score in run.scores if score.role == role), None)


def _require_alike(runs: Sequence[Contents]) -> None:
    """Refuse runs of different scales, protocols or images."""
    first = runs[0]
    for run in runs[1:]:
        facts = {
            "scale": (first.scale, run.scale),
            "validation protocol": (first.protocol, run.protocol),
            "validation images": (", ".join(first.validation), ", ".join(run.validation)),
            "training images": (first.data_digest, run.data_digest),
        }
        for what, (one, other) in facts.items():
            if one != other:
                raise UsageError(
                    f"{first.name} and {run.name} cannot be compared: their {what} differ{'s' * (what[-1] != 's')} "
                    f"({one} and {other})"
                )
        bicubic = [_psnr(each, "bicubic") for each in (first, run)]
        if None in bicubic or abs((bicubic[0] or 0.0) - (bicubic[1] or 0.0)) > SAME_BICUBIC_DB:
            raise UsageError(
                f"{first.name} and {run.name} cannot be compared: bicubic has {bicubic[0]} and {bicubic[1]} dB on "
                "their validation images, so these are not the same"
            )


def _trained(run: Contents) -> list[Trained]:
    """Return a run, or each finished run of a plan; the two runs of `--then` count as one."""
    file = read_for_display(run.path)
    parts = [] if file.request.get("then") else [run.path / name for name in file.run_names]
    if not parts:
        return _trained_run(run.name, run.recipe, file)
    trained = []
    for part in parts:
        method = part.name.rpartition(SEED_MARK)[0] or part.name
        trained += _trained_run(f"{run.name}/{part.name}", method, read_for_display(part))
    return trained


def _trained_run(run: str, method: str, file: RunFile) -> list[Trained]:
    """Return the run of a run.json, if it is finished."""
    if file.result is None or file.seed is None:
        return []
    student = file.result.student
    decides = file.model_dump(mode="json", include={"preset", "student", "start", "quantisation"})
    teacher = None if file.teacher is None else file.teacher.sha256
    return [
        Trained(
            run=run,
            method=method,
            seed=file.seed,
            psnr_y=student.psnr_y,
            params=None if student.cost is None else student.cost.params,
            macs=None if student.cost is None else student.cost.macs,
            steps=file.result.steps,
            settings=json.dumps([method, decides, teacher], sort_keys=True),
        )
    ]


def _methods(trained: Sequence[Trained], bicubic: float, teacher: float | None) -> list[MethodScores]:
    """Group runs that differ only in their seed; methods of the same name are distinguished by their runs' names."""
    groups: dict[tuple[str, int], list[Trained]] = {}
    for one in trained:
        # A second run with the same seed does not count as another seed of the method.
        number = 0
        while any(one.seed == other.seed for other in groups.get((one.settings, number), [])):
            number += 1
        groups.setdefault((one.settings, number), []).append(one)
    names = [group[0].method for group in groups.values()]
    methods = []
    for group in groups.values():
        first, values = group[0], tuple(one.psnr_y for one in group)
        spread = Spread.of(values)
        methods.append(
            MethodScores(
                name=first.method if names.count(first.method) == 1 else f"{first.method} ({first.run})",
                seeds=tuple(one.seed for one in group),
                psnr_y=values,
                mean=spread.mean,
                sd=spread.sd,
                over_bicubic=spread.mean - bicubic,
                below_teacher=None if teacher is None else teacher - spread.mean,
                params=first.params,
                macs=first.macs,
                steps=first.steps,
                runs=tuple(one.run for one in group),
            )
        )
    return methods


def _gain(best: MethodScores, other: MethodScores) -> Gain | None:
    """Return the gain of the best over another method on their shared seeds; None if they share none."""
    own, others = dict(zip(best.seeds, best.psnr_y, strict=True)), dict(zip(other.seeds, other.psnr_y, strict=True))
    shared = [seed for seed in own if seed in others]
    if not shared:
        return None
    return Gain.between(other.name, [own[seed] for seed in shared], [others[seed] for seed in shared])
