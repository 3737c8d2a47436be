"""Comparison of methods, each over its seeds, by their run folders."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from compressor.base.choices import Goal
from compressor.base.errors import SrkdError, UsageError
from compressor.training.run_folder import FACTS
from srkd.record.code import listed, short
from srkd.record.result import CompressReport
from srkd.record.run_file import RunFile, read_for_display
from srkd.record.scores import Role, Score, spread_of
from srkd.record.trials import Gain, Spread
from srkd.reports.contents import Contents

SAME_BICUBIC_DB = 0.002
"""Largest difference in dB between bicubic scores of the same images, by rounding, also between machines."""
SEED_MARK = "-seed"
MOST_NAMED = 2
"""The most runs that are named beside a value."""


@dataclass(frozen=True)
class Trained:
    """One finished run: a method with one seed."""

    run: str
    method: str
    seed: int
    file: RunFile
    result: CompressReport

    @cached_property
    def settings(self) -> dict[str, str]:
        """All else that decides the result, by key: runs with equal settings and code are seeds of one method."""
        file, code = self.file, self.file.code
        kept = file.model_dump(mode="json", include={"student", "quantisation"})
        if file.start is not None:
            origin = file.start.init_from
            kept["start"] = {**file.start.model_dump(), "init_from": None if origin is None else origin.sha256}
        kept["teacher"] = None if file.teacher is None else file.teacher.sha256
        settings = _flat(kept)
        if file.preset is not None:
            settings |= _flat({"schedule": file.preset.schedule.model_dump(mode="json")})
        if code is not None:
            return settings | code.settings
        # A run.json of an older srkd has only the options and weights that the recipe states.
        preset = {} if file.preset is None else file.preset.model_dump(mode="json")
        options = {rule["name"]: rule["options"] for rule in preset.get("methods", ())}
        return settings | _flat({"weights": preset.get("weights", {}), "options": options})

    @property
    def sources(self) -> dict[str, str]:
        """The hash of each source file of methods and networks; empty if run.json does not say."""
        files = {} if self.file.code is None else self.file.code.sources()
        return {f"source of {module}": sha256 for module, (_, sha256) in files.items()}

    @property
    def versions(self) -> dict[str, str]:
        """The version of each package that took part."""
        if self.file.code is not None:
            return self.file.code.versions
        versions = {"srkd": self.file.srkd_version, "torch": self.file.machine.torch}
        return {f"version of {name}": version for name, version in versions.items() if version is not None}

    @property
    def key(self) -> str:
        """What is equal in all seeds of a method."""
        continued = () if self.file.code is None else self.file.code.continued
        changed = [[change.what, change.now] for entry in continued for change in entry.changes]
        return json.dumps([self.method, self.settings, self.sources, changed], sort_keys=True)


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
    differences: tuple[str, ...]
    """What differs between the runs besides method and seed: settings, source and versions, each with its values."""
    left_out: tuple[str, ...]
    """Lines about unfinished runs, which are not in the table."""

    def lines(self) -> tuple[str, ...]:
        """The lines below the table."""
        best = self.methods[0].name
        gains = (f"{best}: {gain.line()}" for gain in self.gains)
        differ = f"besides method and seed, the runs differ in {listed(self.differences)}"
        return (*gains, *([differ] if self.differences else ()), *self.left_out)


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
    trained = [row for run in finished for row in _trained(run)]
    first = finished[0]
    bicubic, teacher = (_judged(first, role) for role in ("bicubic", "teacher"))
    if not trained or bicubic is None:
        raise SrkdError(
            f"{first.path / FACTS} does not say what its networks scored: it was written by another program"
        )
    methods = sorted(_methods(trained, bicubic, teacher), key=lambda method: method.mean, reverse=True)
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
        differences=_differences(trained),
        left_out=tuple(left_out),
    )


def _judged(run: Contents, role: Role) -> float | None:
    """The Y-PSNR in dB of a network by the run's goal."""
    score = run.score(role)
    spread = None if score is None else score.by(run.goal)
    return None if spread is None else spread.mean


def _scale(run: Contents) -> int:
    assert run.file.student is not None  # run.json of a finished run has it
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
            "training images": ["" if each.file.data is None else each.file.data.digest for each in both],
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
                f"{first.name} and {run.name} cannot be compared: bicubic has {bicubic[0]} and {bicubic[1]} dB on "
                "their validation images, so these are not the same"
            )


def _trained(run: Contents) -> list[Trained]:
    """A run, or each finished run of a plan; the two runs of `--then` count as one."""
    names = () if run.file.request.get("then") else run.file.run_names
    rows = [(f"{run.name}/{name}", name.rpartition(SEED_MARK)[0] or name, run.path / name) for name in names]
    files = [(label, method, read_for_display(path)) for label, method, path in rows]
    return [
        Trained(label, method, file.seed, file, file.result)
        for label, method, file in files or [(run.name, run.recipe, run.file)]
        if file.result is not None and file.seed is not None
    ]


def _methods(trained: Sequence[Trained], bicubic: float, teacher: float | None) -> list[MethodScores]:
    """Group runs that differ only in their seed; methods of the same name are distinguished by their runs' names."""
    groups: dict[tuple[str, int], list[Trained]] = {}
    for row in trained:
        # A second run with the same seed does not count as another seed of the method.
        key, number = row.key, 0
        while any(row.seed == other.seed for other in groups.get((key, number), [])):
            number += 1
        groups.setdefault((key, number), []).append(row)
    names = [group[0].method for group in groups.values()]
    methods = []
    for group in groups.values():
        first, students = group[0], [row.result.student for row in group]
        judged = tuple(value for each in students if (value := each.scores.by(first.result.goal)) is not None)
        spread, cost = Spread.of(judged), first.result.student.cost
        methods.append(
            MethodScores(
                name=first.method if names.count(first.method) == 1 else f"{first.method} ({first.run})",
                seeds=tuple(row.seed for row in group),
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
                runs=tuple(row.run for row in group),
            )
        )
    return methods


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


def _flat(values: Mapping[str, Any], path: str = "") -> dict[str, str]:
    """Nested settings by their path, such as `schedule.rate`."""
    flat: dict[str, str] = {}
    for name, value in values.items():
        key = f"{path}.{name}" if path else name
        if isinstance(value, Mapping):
            flat |= _flat(value, key)
        else:
            flat[key] = "none" if value is None else value if isinstance(value, str) else json.dumps(value)
    return flat


def _gain(best: MethodScores, other: MethodScores) -> Gain | None:
    """The gain of the best over another method on their shared seeds; None if they share none."""
    own, others = dict(zip(best.seeds, best.judged, strict=True)), dict(zip(other.seeds, other.judged, strict=True))
    shared = [seed for seed in own if seed in others]
    if not shared:
        return None
    return Gain.between(other.name, [own[seed] for seed in shared], [others[seed] for seed in shared])
