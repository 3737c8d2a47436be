"""The methods of run folders: finished runs that differ only in their seed, named by what else differs between them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from compressor.base.files import file_sha256
from compressor.models.checkpoints.header import RUN_FOLDER_WEIGHTS
from srkd.record.code import short
from srkd.record.result import CompressReport
from srkd.record.run_file import RunFile, read_for_display
from srkd.reports.contents import Contents
from srkd.terminal.tables import leaves

SEED_MARK = "-seed"
BASELINE = "scratch"
"""The recipe whose runs are baselines of others also outside of a plan."""
SHAPES = ("student.", "quantisation", "schedule.", "teacher")
"""Beginnings of settings that name a row wherever they differ; others do where the method does not imply them."""


@dataclass(frozen=True)
class Trained:
    """One finished run: a method with one seed, the folder of its plan, and the methods that this compares it with."""

    run: str
    method: str
    seed: int
    file: RunFile
    result: CompressReport
    folder: Path
    plan: Path | None
    baselines: tuple[str, ...]
    is_baseline: bool

    @cached_property
    def student_sha256(self) -> str:
        return file_sha256(self.folder / RUN_FOLDER_WEIGHTS)

    @cached_property
    def settings(self) -> dict[str, str]:
        """All else that decides the result, by key: runs with equal settings and code are seeds of one method."""
        file = self.file
        kept = file.model_dump(mode="json", include={"student", "quantisation", "degradation"})
        kept |= file.model_dump(mode="json", include={"data": {"labels"}, "phi": {"kind"}, "label_margin": {"pixels"}})
        origin = file.start.init_from
        kept["start"] = {**file.start.model_dump(), "init_from": None if origin is None else origin.sha256}
        kept["teacher"] = None if file.teacher is None else file.teacher.sha256
        preset = file.preset.model_dump(mode="json")
        kept |= {name: preset[name] for name in ("schedule", "weights", "blend")}
        kept["options"] = {rule["name"]: rule["options"] for rule in preset["methods"]}
        texts = ((key, "none" if value is None else value) for key, value in leaves("", kept))
        return {key: value if isinstance(value, str) else json.dumps(value) for key, value in texts}

    @property
    def labels(self) -> dict[str, str]:
        """The settings that can name a row: those of `settings` under short names, with the rate that was used."""
        # A point of a sweep or its baseline has a name such as `rate=0.0001`.
        recipe = self.file.recipe if "=" in self.method else self.method
        values = {"recipe": recipe or self.method, **self.settings}
        fit_rate = values.pop("schedule.fit_rate", "none")
        if values.get("start.init") == "fit" and fit_rate != "none":
            values["schedule.rate"] = fit_rate
        if self.file.teacher is not None:
            values["teacher"] = f"{self.file.teacher.path.name} {short(self.file.teacher.sha256)}"
        return values

    @property
    def sources(self) -> dict[str, str]:
        """The hash of each file of the user; empty if run.json does not say."""
        files = {} if self.file.code is None else self.file.code.files
        return {f"source of {Path(path).name}": sha256 for path, sha256 in files.items()}

    @property
    def versions(self) -> dict[str, str]:
        return {} if self.file.code is None else self.file.code.versions

    @property
    def key(self) -> str:
        """All that the seeds of a method have in common, as text."""
        continued = () if self.file.code is None else self.file.code.continued
        changed = [[change.what, change.now] for entry in continued for change in entry.changes]
        return json.dumps([self.method, self.settings, self.sources, changed], sort_keys=True)


@dataclass(frozen=True)
class MethodRuns:
    """Runs that differ only in their seed, by a name that no other method has."""

    name: str
    runs: tuple[Trained, ...]
    settings: Mapping[str, str]
    """Its settings that other methods have with another value."""


def trained_runs(runs: Sequence[Contents]) -> list[Trained]:
    """The single runs, and the finished runs of plans, each once; the two runs of `--then` count as one."""
    trained: dict[Path, Trained] = {}
    for run in runs:
        names = () if run.file.options.training.then else run.file.run_names
        trials = None if run.file.result is None else run.file.result.trials
        gains = () if trials is None else trials.gains
        variants = {} if trials is None else {outcome.run: outcome.variant for outcome in trials.runs}
        files = {run.path / name: read_for_display(run.path / name) for name in names} or {run.path: run.file}
        for folder, file in files.items():
            if file.result is None:
                continue
            if names:
                label, plan = f"{run.name}/{folder.name}", run.path
                method = variants.get(folder.name) or folder.name.rpartition(SEED_MARK)[0] or folder.name
                is_baseline = any(gain.over == method for gain in gains)
                own = (gain.over for gain in gains if not is_baseline and gain.point in (None, method))
                baselines = tuple(dict.fromkeys(own))
            else:
                label, plan, method = run.name, None, run.recipe
                is_baseline = method == BASELINE
                baselines = () if is_baseline else (BASELINE,)
            row = Trained(label, method, file.seed, file, file.result, folder, plan, baselines, is_baseline)
            trained.setdefault(folder.resolve(), row)
    return list(trained.values())


def group_methods(trained: Sequence[Trained]) -> list[MethodRuns]:
    """Group runs that differ only in their seed, and name the groups by what differs between them."""
    groups: dict[tuple[str, int], list[Trained]] = {}
    for row in trained:
        # A second run with the same seed does not count as another seed of the method.
        key, number = row.key, 0
        while any(row.seed == other.seed for other in groups.get((key, number), [])):
            number += 1
        groups.setdefault((key, number), []).append(row)
    settings = _differing([group[0].labels for group in groups.values()])
    names = [", ".join(named_value(*item) for item in each.items()) for each in settings]
    names = [name or group[0].labels["recipe"] for name, group in zip(names, groups.values(), strict=True)]
    # Methods that differ in their source alone, and seeds that were trained twice, are named by where they are.
    for places in ([group[0].run for group in groups.values()], [str(group[0].folder) for group in groups.values()]):
        longer = [name if names.count(name) == 1 else f"{name} ({at})" for name, at in zip(names, places, strict=True)]
        if len(set(longer)) == len(longer):
            names = longer
            break
    return [
        MethodRuns(name, tuple(group), each) for name, group, each in zip(names, groups.values(), settings, strict=True)
    ]


def _differing(rows: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """The settings of each row that name it: all that differ, and the recipe where it differs or nothing else does."""
    keys = []
    for key in dict.fromkeys(key for row in rows for key in row):
        values = {(row["recipe"] if not key.startswith(SHAPES) else "", row[key]) for row in rows if key in row}
        recipes = [recipe for recipe, _ in values]
        if key != "recipe" and len(set(recipes)) < len(recipes):
            keys.append(key)
    if not keys or len({row["recipe"] for row in rows}) > 1:
        keys.insert(0, "recipe")
    return [{key: row[key] for key in keys if key in row} for row in rows]


def shared_settings(methods: Sequence[MethodRuns]) -> dict[str, str]:
    first, *others = (method.runs[0].labels for method in methods)
    return {
        key: value for key, value in first.items() if value != "none" and all(each.get(key) == value for each in others)
    }


def named_value(key: str, value: str) -> str:
    """A setting in the name of a method: the recipe by itself, others as in `width=16` and `weights.pixel=1.0`."""
    if key == "recipe":
        return value
    return f"{re.sub(r'^(student|schedule|start|options[.][^.]+)[.]', '', key)}={short(value)}"
