"""Comparisons at equal budget: contenders, their runs, which are kept, and the table of their scores.

A contender is a recipe with a student and a teacher; all have the same schedule and, for one seed, the same batches.
Every finished run stays in its folder with its scores, so that a command can be stopped and repeated, and more
contenders can be added to what is there. A folder that was trained under another budget is refused.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import srkd
from benchmarks.evidence import Cell, Column, Row, Table
from compressor.assets import embedded_teacher
from compressor.base.files import atomic_path, file_sha256
from compressor.base.machine import cpu_model
from recipes.config.reading import is_recipe_file, load_preset
from srkd.compression import compress, resume
from srkd.config import load_recipe
from srkd.trials_report import Gain, Spread
from srkd.verb_options import CompressOptions

SETS = ("Set5", "Set14", "B100")
SETTINGS = ("batch=4", "lr_patch=16", "rate=1e-3", "decay=cosine", "precision=bf16")
FIRST_SEED = 10
Start = Literal["fit", "inherit", "random"]


@dataclass(frozen=True)
class Contender:
    """One row: `name` is its folder, a recipe or a preset file, and whose student it is.

    No teacher: the embedded. No `init`: the recipe's own. `steps` where they are not those of all.
    """

    name: str
    recipe: str
    title: str = ""
    width: float | None = None
    student: str | None = None
    init: Start | None = None
    teacher: Path | None = None
    settings: tuple[str, ...] = ()
    steps: int | None = None
    phi_weights: Path | None = None

    @property
    def label(self) -> str:
        return self.title or self.name


@dataclass(frozen=True)
class Published:
    """Gain over the table's own scratch row, ×4, in dB on Set5, Set14 and B100."""

    gains: tuple[float, float, float]
    source: str = ""

    def __str__(self) -> str:
        return f"{_mean(self.gains):+.3f}" + (f" ({self.source})" if self.source else "")


@dataclass(frozen=True)
class Budget:
    """The settings that all runs share."""

    train: Path | None
    steps: int
    out: Path
    seeds: int = 3
    settings: tuple[str, ...] = SETTINGS
    device: str = "cpu"


Scores = Mapping[str, Sequence[Mapping[str, float]]]
"""By contender and seed, Y-PSNR by set."""


def parser_of(words: str | None, *, out: str, steps: int = 240) -> argparse.ArgumentParser:
    """Return a parser with the options of every comparison."""
    parser = argparse.ArgumentParser(description=words, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with Set5, Set14 and B100")
    parser.add_argument("--train", type=Path, help="photographs to train on; none: the embedded ones")
    parser.add_argument("--steps", type=int, default=steps, help="of every run")
    parser.add_argument("--seeds", type=int, default=3, help="how many runs each")
    parser.add_argument("--out", type=Path, default=Path(out), help="folder of the runs, which are kept")
    parser.add_argument("--device", default="cpu", help="to train on")
    parser.add_argument("--variant", default="", help="what the result is called beside that of the plain command")
    return parser


def budget_of(options: argparse.Namespace, settings: tuple[str, ...] = SETTINGS) -> Budget:
    return Budget(options.train, options.steps, options.out, options.seeds, settings, options.device)


def compare(contenders: Sequence[Contender], budget: Budget, data: Path) -> Scores:
    """Seed by seed, so that a command that is stopped early has compared all."""
    scores: dict[str, list[dict[str, float]]] = {one.name: [] for one in contenders}
    for seed in range(FIRST_SEED, FIRST_SEED + budget.seeds):
        for one in contenders:
            scores[one.name].append(scored(trained(one, seed, budget), data))
    return scores


def trained(one: Contender, seed: int, budget: Budget) -> Path:
    """The run folder of a contender and seed, trained, taken up where it stopped, or kept."""
    folder = budget.out / f"{one.name}-seed{seed}"
    settings = (*(f"schedule.{setting}" for setting in budget.settings), *one.settings)
    if (folder / "run.json").is_file():
        told = facts_of(folder)
        _require_same(folder, told, one, budget, settings)
        if "result" not in told:
            resume(folder, announce=say)
        return folder
    say(f"{one.label}, seed {seed}")
    compress(
        one.teacher,
        recipe=one.recipe,
        data=budget.train,
        width=one.width,
        student=one.student,
        init=one.init,
        steps=one.steps or budget.steps,
        seed=seed,
        settings=settings,
        phi_weights=one.phi_weights,
        device=budget.device,
        out=folder,
        announce=say,
    )
    return folder


def _require_same(
    folder: Path, told: Mapping[str, Any], one: Contender, budget: Budget, settings: Sequence[str]
) -> None:
    """A kept run that is not what would be trained now would be compared with what it is not."""
    request = CompressOptions(recipe=one.recipe, settings=tuple(settings), steps=one.steps or budget.steps)
    preset = load_recipe(request).model_dump(mode="json")
    now = {key: preset[key] for key in ("methods", "weights", "schedule")}
    kept = {key: told["preset"][key] for key in now}
    asked = {
        "data": None if budget.train is None else str(budget.train.resolve()),
        **{key: getattr(one, key) for key in ("width", "student", "init")},
    }
    now, kept = now | asked, kept | {key: told["request"][key] for key in asked}
    if told["teacher"] is not None:
        now["teacher"] = file_sha256(one.teacher or embedded_teacher())
        kept["teacher"] = told["teacher"]["sha256"]
    other = [key for key in now if now[key] != kept[key]]
    if other:
        key = other[0]
        raise SystemExit(
            f"{folder}: trained with {key}={json.dumps(kept[key])}, and now it would be {json.dumps(now[key])}: "
            "name another --out, or remove the folder"
        )


def scored(folder: Path, data: Path) -> dict[str, float]:
    """Y-PSNR by set, evaluated once."""
    kept = folder / "benchmarks.json"
    if kept.is_file():
        found: dict[str, float] = json.loads(kept.read_text(encoding="utf-8"))
        return found
    psnr = {name: srkd.evaluate([folder], data=data / name).models[folder.name][name].psnr_y for name in SETS}
    with atomic_path(kept) as temporary:
        temporary.write_text(json.dumps(psnr), encoding="utf-8")
    return psnr


def seconds_a_run(contenders: Sequence[Contender], budget: Budget) -> dict[str, float]:
    """Return the seconds of training, the median of a contender's seeds; of a continued run, its last part."""
    folders = {
        one.name: [budget.out / f"{one.name}-seed{FIRST_SEED + seed}" for seed in range(budget.seeds)]
        for one in contenders
    }
    return {
        name: statistics.median(float(facts_of(run)["result"]["seconds"]) for run in runs)
        for name, runs in folders.items()
    }


def conditions(folder: Path, *, shared: str = "") -> str:
    """Describe the training in a line, from one of the runs that share it; `shared` replaces its steps and rate."""
    told = facts_of(folder)
    rule = told["preset"]["schedule"]
    patches = f"{rule['batch']} patches of {rule['lr_patch']}×{rule['lr_patch']}"
    shared = shared or f"{rule['steps']:,} steps of {patches}, rate {rule['rate']:g} with cosine decay"
    return (
        f"{shared.format(patches=patches)}, {rule['precision']}, trained on {told['data']['origin']}; "
        f"{cpu_model()}, {told['machine']['torch_threads']} thread(s), torch {told['machine']['torch']}. "
        "Y-PSNR in dB, mean ± sd."
    )


def schedule_line(folder: Path) -> str:
    """Such as: fit, 300 steps at 0.0002."""
    told = facts_of(folder)
    rule, start = told["preset"]["schedule"], told["start"]
    chosen = start["init"] if start["select"] == "leading" else start["select"]
    rate = rule["rate"] if chosen in ("inherit", "random") else rule["fit_rate"] or rule["rate"]
    return f"{chosen}, {rule['steps']:,} at {rate:g}"


def student_line(folder: Path) -> str:
    """Such as: EDSR 16/24, ×4."""
    spec = facts_of(folder)["student"]
    size = "/".join(str(spec[key]) for key in ("groups", "depth", "width") if key in spec)
    return f"{spec['arch'].upper()} {size}, ×{spec['scale']}"


def table(
    contenders: Sequence[Contender],
    scores: Scores,
    published: Mapping[str, Published],
    seconds: Mapping[str, float],
    baseline: str = "scratch",
    schedules: Mapping[str, str] | None = None,
    *,
    caption: str = "",
    conclusions: Sequence[str] = (),
) -> Table:
    """A row a contender: our figures, our gain over the baseline, the published one, what a run took, its schedule.

    The scores of each seed are in the rows, too. Without published gains there is no column for them.
    """
    columns = [Column("row", ""), *(Column(name, name) for name in SETS), Column("gain", f"gain over {baseline}")]
    columns += [Column("published", "published")] if published else []
    columns += [Column("seconds", "s a run", ".0f")]
    columns += [] if schedules is None else [Column("schedule", "start, steps at rate")]
    rows: list[Row] = []
    for one in contenders:
        runs = scores[one.name]
        rows.append(
            {
                "row": one.label,
                **cells_of(runs),
                "gain": None if one.name == baseline or baseline not in scores else gain(scores, one.name, baseline),
                "published": str(published.get(one.name, "")),
                "seconds": seconds[one.name],
                "schedule": None if schedules is None else schedules[one.name],
            }
        )
    return Table(columns, rows, caption, conclusions)


def gain(scores: Scores, ours: str, theirs: str) -> str:
    """Mean over the sets, by seed."""
    return Gain.between(theirs, means(scores[ours]), means(scores[theirs])).line().split(": ", 1)[1]


def leaders(contenders: Sequence[Contender], scores: Scores) -> list[str]:
    """The best by its mean, and how surely it is better than each of those behind it."""
    ordered = sorted(contenders, key=lambda one: -_mean(means(scores[one.name])))
    best = ordered[0]
    lines = [f"Best by mean over the sets: {best.label}."]
    return lines + [f"- over {one.label}: {gain(scores, best.name, one.name)}" for one in ordered[1:]]


def means(runs: Sequence[Mapping[str, float]]) -> list[float]:
    """Over the sets, seed by seed."""
    return [_mean([run[name] for name in SETS]) for run in runs]


def cells_of(runs: Sequence[Mapping[str, float]], first_seed: int = FIRST_SEED) -> dict[str, Cell]:
    """Return the spread on each set, and the scores of each seed."""
    return {
        **{name: str(Spread.of([run[name] for run in runs])) for name in SETS},
        **{f"{name}, seed {seed}": run[name] for seed, run in enumerate(runs, first_seed) for name in SETS},
    }


def seeds_of(budget: Budget) -> tuple[int, ...]:
    return tuple(range(FIRST_SEED, FIRST_SEED + budget.seeds))


def facts_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    return found


def preset_contender(file: Path, options: Mapping[str, Sequence[str]], *, width: float) -> Contender:
    """A recipe of one's own, under its file's name; `options` are added to methods on which it is silent."""
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


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _mean(figures: Sequence[float]) -> float:
    return statistics.fmean(figures)
