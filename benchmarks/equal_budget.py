"""Comparisons at equal budget: contenders, their cached runs, and their scores.

A contender is a recipe with a student and a teacher; all have the same schedule and, for one seed, the same batches.
Every finished run stays in its folder with its scores, so that a command can be stopped and repeated, and contenders
can be added later. A folder that was trained with another budget is refused.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import srkd
from benchmarks.evidence import Cell, add_variant_option
from benchmarks.kept_runs import StepClock
from compressor.assets import embedded_teacher
from compressor.base.context import Context
from compressor.base.errors import UsageError
from compressor.base.files import atomic_path, file_sha256
from compressor.base.machine import cpu_model
from compressor.models.checkpoints.header import ncnn_files
from recipes.config.reading import is_recipe_file, load_preset
from srkd.options.compress import CompressOptions
from srkd.record.paired import PairedDifference
from srkd.record.trials import Spread
from srkd.runs.compression import run_compress
from srkd.runs.recipe import load_recipe

SETS = ("Set5", "Set14", "B100", "Urban100-20")
SETTINGS = ("batch=4", "lr_patch=16", "rate=1e-3", "decay=cosine", "precision=bf16")
FIRST_SEED = 10
LOOK_STEPS = 24
"""Steps by which the time of a step is measured."""
SECONDS = "seconds.json"
"""A file of each run folder: the processor time of its training."""
Start = Literal["fit", "inherit", "random"]
Select = Literal["leading", "l1", "principal"]


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


SHARED = Context(note=say)
"""What all runs of a command share: teachers, images, and for each seed the solved student."""


@dataclass(frozen=True)
class Contender:
    """One row of a comparison: a recipe (or preset file) and a student; `name` begins the names of its run folders.

    None is the embedded teacher, the recipe's own `init`, `select` and rate, and the budget's steps.
    """

    name: str
    recipe: str
    title: str = ""
    width: float | None = None
    student: str | None = None
    init: Start | None = None
    select: Select | None = None
    teacher: Path | None = None
    settings: tuple[str, ...] = ()
    steps: int | None = None
    rate: float | None = None

    @property
    def label(self) -> str:
        return self.title or self.name


@dataclass(frozen=True)
class Published:
    """Published gains over the source's own baseline, ×4, in dB on Set5, Set14 and B100."""

    gains: tuple[float, float, float]
    source: str

    def __str__(self) -> str:
        return f"{statistics.fmean(self.gains):+.3f} ({self.source})"


@dataclass(frozen=True)
class Budget:
    """The settings that all runs share."""

    train: Path | None
    steps: int
    out: Path
    seeds: int = 3
    settings: tuple[str, ...] = SETTINGS
    device: str = "cpu"
    sets: tuple[str, ...] = SETS

    def folder(self, name: str, seed: int = FIRST_SEED) -> Path:
        """Return the run folder of a contender."""
        return self.out / f"{name}-seed{seed}"


Scores = Mapping[str, Sequence[Mapping[str, Sequence[float]]]]
"""Y-PSNR in dB by contender, seed, set and image."""


def parser_of(words: str | None, *, out: str, steps: int = 240) -> argparse.ArgumentParser:
    """Return a parser with the options of every comparison."""
    parser = argparse.ArgumentParser(description=words, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the sets")
    parser.add_argument("--sets", nargs="+", default=SETS, metavar="SET", help="that students are scored on")
    parser.add_argument("--train", type=Path, help="photographs to train on; none: the embedded ones")
    parser.add_argument("--steps", type=int, default=steps, help="of every run")
    parser.add_argument("--seeds", type=int, default=3, help="how many runs each")
    parser.add_argument("--out", type=Path, default=Path(out), help="folder of the runs, which are kept")
    parser.add_argument("--device", default="cpu", help="to train on")
    add_variant_option(parser)
    return parser


def budget_of(options: argparse.Namespace, settings: tuple[str, ...] = SETTINGS) -> Budget:
    sets = tuple(options.sets)
    return Budget(options.train, options.steps, options.out, options.seeds, settings, options.device, sets)


def require_sets(data: Path, sets: Sequence[str]) -> None:
    if missing := [name for name in sets if not (data / name).is_dir()]:
        raise SystemExit(f"--data {data}: it has no folder {missing[0]}; give the folder with {', '.join(sets)}")


def possible(contenders: Sequence[Contender], budget: Budget) -> tuple[list[Contender], list[str]]:
    """Train each for a moment; return those that srkd trains, and for each other one its name with the reason."""
    can: list[Contender] = []
    reasons: list[str] = []
    for one in contenders:
        try:
            look(one, budget)
        except UsageError as error:
            reasons.append(f"{one.label} is not among the rows: {error}.")
        else:
            can.append(one)
    return can, reasons


def look(one: Contender, budget: Budget) -> Path:
    """Return the run folder of a short run, by which the time of a step is measured."""
    return trained(replace(one, steps=None), FIRST_SEED, replace(budget, steps=LOOK_STEPS, out=budget.out / "looks"))


def step_seconds(one: Contender, budget: Budget) -> float:
    """Return the processor time in seconds that a short run takes for each step of its student, all stages counted."""
    return training_seconds(look(one, budget)) / LOOK_STEPS


def trained(one: Contender, seed: int, budget: Budget) -> Path:
    """Return the run folder of a contender and seed; train it, continue it or reuse a finished run."""
    folder, clock = budget.folder(one.name, seed), StepClock()
    rates = () if one.rate is None else (f"schedule.rate={one.rate:g}", f"schedule.fit_rate={one.rate:g}")
    settings = (*(f"schedule.{setting}" for setting in budget.settings), *one.settings, *rates)
    if (folder / "run.json").is_file():
        facts = facts_of(folder)
        _require_same(folder, facts, one, budget, settings)
        if "result" in facts and (folder / SECONDS).is_file():
            return folder
        shutil.rmtree(folder)  # its time would be that of a part
    say(f"{one.label}, seed {seed}")
    options = CompressOptions.of(
        teacher=one.teacher,
        recipe=one.recipe,
        data=budget.train,
        width=one.width,
        student=one.student,
        init=one.init,
        select=one.select,
        steps=one.steps or budget.steps,
        seed=seed,
        settings=settings,
        device=budget.device,
        out=folder,
    )
    run_compress(options, replace(SHARED, progress=clock))
    (folder / SECONDS).write_text(json.dumps(clock.training_seconds()), encoding="utf-8")
    return folder


def training_seconds(folder: Path) -> float:
    """Return the processor time of all training steps of a run, in seconds."""
    return float(json.loads((folder / SECONDS).read_text(encoding="utf-8")))


def validated(folder: Path) -> float:
    """Return the Y-PSNR in dB of a run's student on its own validation images."""
    return float(facts_of(folder)["result"]["student"]["psnr_y"])


def _require_same(
    folder: Path, facts: Mapping[str, Any], one: Contender, budget: Budget, settings: Sequence[str]
) -> None:
    """Refuse an existing run that was trained with other options than it would be now."""
    request = CompressOptions.of(recipe=one.recipe, settings=tuple(settings), steps=one.steps or budget.steps)
    preset = load_recipe(request).model_dump(mode="json")
    now = {key: preset[key] for key in ("methods", "weights", "schedule")}
    before = {key: facts["preset"][key] for key in now}
    # srkd chooses it, and a rate with it, for some starts.
    if before["schedule"]["optimiser"] == "soap" != now["schedule"]["optimiser"]:
        for key in ("optimiser", "rate", "fit_rate"):
            del before["schedule"][key], now["schedule"][key]
    options = {
        "data": None if budget.train is None else [str(budget.train.resolve())],
        **{key: getattr(one, key) for key in ("width", "student", "init", "select")},
    }
    now, before = now | options, before | {key: facts["options"][key] for key in options}
    if facts["teacher"] is not None:
        file = one.teacher or embedded_teacher()
        ncnn = ncnn_files(file)
        now["teacher"] = file_sha256(ncnn[1] if ncnn else file)  # as runs record it
        before["teacher"] = facts["teacher"]["sha256"]
    changed = [key for key in now if now[key] != before[key]]
    if changed:
        key = changed[0]
        raise SystemExit(
            f"{folder}: trained with {key}={json.dumps(before[key])}, and now it would be {json.dumps(now[key])}: "
            "name another --out, or remove the folder"
        )


def scored(folder: Path, data: Path, sets: Sequence[str] = SETS) -> dict[str, list[float]]:
    """Return the Y-PSNR in dB of a run by set and image; what was measured before is read from the folder."""
    file = folder / "benchmarks.json"
    known: dict[str, list[float]] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if missing := [name for name in sets if name not in known]:
        for name in missing:
            images = srkd.evaluate([folder], data=data / name).models[folder.name][name].images
            known[name] = [images[stem].psnr_y for stem in sorted(images)]
        with atomic_path(file) as temporary:
            temporary.write_text(json.dumps(known), encoding="utf-8")
    return {name: known[name] for name in sets}


def conditions(folder: Path, *, shared: str = "") -> str:
    """Describe the training in a line, from one of the runs that share it; `shared` replaces its steps and rate."""
    facts = facts_of(folder)
    rule = facts["preset"]["schedule"]
    patches = f"{rule['batch']} patches of {rule['lr_patch']}×{rule['lr_patch']}"
    shared = shared or f"{rule['steps']:,} steps of {patches}, rate {rule['rate']:g} with cosine decay"
    return (
        f"{shared.format(patches=patches)}, {rule['precision']}, trained on {facts['data']['origin']}; "
        f"{cpu_model()}, {facts['machine']['torch_threads']} thread(s), torch {facts['machine']['torch']}. "
        "Y-PSNR in dB, mean ± sd."
    )


def teacher_line(folder: Path) -> str:
    """Return the teacher of a run: the name of its file, or `the embedded EDSR`."""
    teacher = facts_of(folder)["teacher"]
    if teacher is None or teacher["sha256"] == file_sha256(embedded_teacher()):
        return "the embedded EDSR"
    return Path(teacher["path"]).stem


def student_line(folder: Path) -> str:
    """Return the shape of a run's student, such as `EDSR 16/24, ×4`."""
    spec = facts_of(folder)["student"]
    size = "/".join(str(spec[key]) for key in ("groups", "depth", "width") if key in spec)
    return f"{spec['arch'].upper()} {size}, ×{spec['scale']}"


def paired(scores: Scores, name: str, control: str) -> PairedDifference:
    """Return the gain of one contender over another on all images of all sets."""
    both = zip(scores[name], scores[control], strict=True)
    return PairedDifference.of(
        [[a - b for set_ in own for a, b in zip(own[set_], other[set_], strict=True)] for own, other in both]
    )


def cells_of(runs: Sequence[Mapping[str, Sequence[float]]]) -> dict[str, Cell]:
    """Return mean and spread of the means on each set, and the mean of each seed."""
    means = [{name: statistics.fmean(images) for name, images in run.items()} for run in runs]
    return {
        **{name: str(Spread.of([run[name] for run in means])) for name in means[0]},
        **{f"{name}, seed {seed}": score for seed, run in enumerate(means, FIRST_SEED) for name, score in run.items()},
    }


def seeds_of(budget: Budget) -> tuple[int, ...]:
    return tuple(range(FIRST_SEED, FIRST_SEED + budget.seeds))


def facts_of(folder: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    return facts


def preset_contender(file: Path, options: Mapping[str, Sequence[str]], *, width: float) -> Contender:
    """Return the contender of a preset file, named after it; `options` are added to methods that do not set them."""
    if not is_recipe_file(str(file)):
        raise SystemExit(f"--preset {file}: a preset is a YAML file")
    preset = load_preset(str(file))
    added = tuple(
        f"{rule.name}.{option}"
        for rule in preset.methods
        for option in options.get(rule.name, ())
        if option.split("=")[0] not in rule.options
    )
    return Contender(file.stem, str(file.resolve()), preset.title, width=width, settings=added)
