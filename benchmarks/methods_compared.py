"""Every method from the same teacher at the same budget: `python -m benchmarks methods_compared --data BENCHMARKS`.

BENCHMARKS holds Set5/, Set14/, B100/ and Urban100-20/ (HR/ and LRbicX4/ in each). The teacher is the
embedded EDSR 16/48, or that of --teacher, and the student half as wide, or that of --student; name those --variant.
Each recipe uses its preset's rate, which falls along a cosine. Students start as the preset says, most of them from a
fit, and a further row is the fitted student with L1 alone. All have the same patches and, for one seed, the same
batches. A student of another kind than its teacher is trained by SOAP, and methods that need a slice are left out.
Every finished run is kept: the command can be stopped and repeated, and `--methods` can add rows. Published gains are
shown for context: they are of other data, other networks, and hundreds of times the budget.

`--preset FILE...` adds recipes under their files' names, such as the compositions of two methods beside this file.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

from benchmarks.equal_budget import (
    SETS,
    Budget,
    Contender,
    Published,
    Scores,
    budget_of,
    cells_of,
    compare,
    conditions,
    gain,
    leaders,
    means,
    parser_of,
    possible,
    preset_contender,
    schedule_line,
    seeds_of,
    student_line,
    teacher_line,
)
from benchmarks.evidence import ROOT, Benchmark, Column, Table, save
from compressor.assets import embedded_teacher
from recipes.catalogue import METHODS
from recipes.config.listing import list_recipes
from recipes.config.options import options_model
from srkd.record.trials import Gain

COMPOSITIONS = sorted((ROOT / "benchmarks" / "compositions").glob("*.yaml"))
BENCHMARK = Benchmark(
    "Which method gives the best student at equal steps?",
    minutes=150,
    arguments=(
        *("--data", "{sets}", "--train", "{photos}", "--steps", "300"),
        *("--preset", *map(str, COMPOSITIONS)),
    ),
    small=(
        *("--data", "{sets}", "--steps", "2", "--seeds", "1", "--methods", "logits,csd-lite,fit-l1"),
        *("--out", "runs/small/methods"),
    ),
)

WIDTH = 0.5
"""Width of the student, which is not shorter than the teacher because joint training takes no shorter student."""
OPTIONS: Mapping[str, tuple[str, ...]] = {
    name: ("phi=teacher",) for name, entry in METHODS.items() if "phi" in options_model(entry).model_fields
}
"""Settings of methods that compare features: they use the teacher's, as VGG-19 may not be available."""
TITLES: Mapping[str, str] = {
    recipe.name: recipe.title.split(",")[0]
    for recipe in list_recipes().recipes
    if recipe.name in METHODS and recipe.title.split(",")[0].endswith("-style")
}
"""Titles of methods whose sources leave choices open: their results are not those of the papers' methods."""
FIRST = ("scratch", "inherit", "logits")
ELSEWHERE = {"pams", "pact", "perceptual", "calm"}
"""Methods of other questions: quantised students, looks, and films."""
SETTINGS = ("batch=4", "lr_patch=24", "decay=cosine", "validate_every=100000")
"""Settings of all runs; only the last step is validated, as the scores are measured afterwards."""
FIT_ALONE = Contender("fit-l1", "scratch", "fit + L1", width=WIDTH, init="fit")
"""The fitted student, trained with L1 and without distillation."""

PUBLISHED: Mapping[str, Published] = {
    "inherit": Published((0.115, 0.098, 0.062), "a user of CSD's code, its issue 9, EDSR at width 0.25"),
    "logits": Published((0.01, 0.02, 0.00), "DUKD, table 2, EDSR 32/64"),
    "dukd": Published((0.18, 0.12, 0.07), "DUKD, table 2, EDSR 32/64"),
    "fakd": Published((0.036, 0.021, 0.019), "CLSD's table, EDSR 16/64"),
    "lfd": Published((0.005, -0.002, 0.014), "CLSD's table, EDSR 16/64"),
    "ds": Published((0.010, 0.019, 0.011), "CLSD's table, EDSR 16/64"),
    "clsd": Published((-0.003, 0.030, 0.022), "CLSD's table, EDSR 16/64"),
    "csd": Published((0.11, 0.09, 0.08), "CSD, table 1, EDSR+ at width 0.25"),
}


def main() -> None:
    options = parser_with_methods(__doc__, out="runs/methods-compared").parse_args()
    shared = f"{options.steps:,} steps of {{patches}}"
    budget = budget_from(options)
    table = compared(contenders_of(options), budget, options.data, shared)
    save("methods_compared", table, seeds=seeds_of(budget), variant=options.variant)


def parser_with_methods(words: str | None, *, out: str) -> argparse.ArgumentParser:
    parser = parser_of(words, out=out)
    parser.set_defaults(sets=(*SETS, "Urban100-20"))
    parser.add_argument("--methods", default=",".join(all_rows()), help="names separated by commas; none: all")
    parser.add_argument("--preset", type=Path, nargs="+", default=[], metavar="FILE", help="recipes of one's own too")
    parser.add_argument("--teacher", type=Path, help="in place of the embedded one")
    parser.add_argument("--precision", default="bf16", help="of training; fp32 where a processor has no bf16")
    parser.add_argument("--student", help="such as compact:width=24,depth=8,scale=4; none: half as wide as the teacher")
    return parser


def budget_from(options: argparse.Namespace) -> Budget:
    # Recipes train students of another kind by SOAP: Adam's first steps throw away what is solved across kinds.
    optimiser = ("optimiser=soap",) if options.student else ()
    return budget_of(options, (*SETTINGS, f"precision={options.precision}", *optimiser))


def contenders_of(options: argparse.Namespace) -> list[Contender]:
    """Return the contenders of the chosen methods and preset files, with the teacher and student of the options."""
    contenders = all_contenders([name for name in options.methods.split(",") if name], options.preset)
    contenders = [replace(one, teacher=options.teacher) for one in contenders]
    if options.student is None:
        return contenders
    # Recipes without a teacher need one for the fit.
    teacher = options.teacher or embedded_teacher()
    return [replace(one, width=None, student=options.student, teacher=teacher) for one in contenders]


def compared(contenders: Sequence[Contender], budget: Budget, data: Path, shared: str, steps_are: str = "") -> Table:
    """Train the unfinished contenders, and return the table of all.

    The rows also hold the scores of each seed, and a sentence for pages that show only that.
    `shared` is the budget in words, and `steps_are` says what the number of steps follows from.
    """
    contenders, left_out = possible(contenders, budget)
    scores = compare(contenders, budget, data)
    folders = {one.name: budget.folder(one.name) for one in contenders}
    first = folders[contenders[0].name]
    baseline = next((name for name in (FIT_ALONE.name, "inherit") if name in scores), "scratch")
    labels = {one.name: one.label for one in contenders}
    schedules = {name: schedule_line(folder) for name, folder in folders.items()}
    compared_with = {name: labels[name] for name in (baseline, "logits") if name in labels}
    columns = [
        Column("row", ""),
        *(Column(name, name) for name in budget.sets),
        Column("gain", f"gain over {labels.get(baseline, baseline)}"),
        Column("published", "published"),
        Column("schedule", "start, steps at rate"),
    ]
    rows = [
        {
            "name": name,
            "row": label,
            **cells_of(scores[name]),
            "gain": None if name == baseline or baseline not in scores else gain(scores, name, baseline),
            "published": str(PUBLISHED.get(name, "")),
            "schedule": schedules[name],
            "sentence": sentence(name, scores, compared_with, schedules[name], steps_are),
        }
        for name, label in labels.items()
    ]
    caption = f"Teacher: {teacher_line(first)}; student {student_line(first)}; {conditions(first, shared=shared)}"
    return Table(columns, rows, caption, [*leaders(contenders, scores), "", *ranking(scores), *left_out])


START_IN_WORDS = {
    "fit": "a fit",
    "inherit": "a slice",
    "random": "random weights",
    "principal": "a slice of the turned teacher",
}


def sentence(name: str, scores: Scores, baselines: Mapping[str, str], schedule: str, steps_are: str = "") -> str:
    """Return a row's start, steps, and gains over each baseline (labels by name); `schedule` is its `schedule_line`."""
    start, steps = schedule.split(" at ")[0].split(", ", 1)
    over = [f"over {label} {gain(scores, name, other)}" for other, label in baselines.items() if other != name]
    return f"From {START_IN_WORDS[start]}, {steps} steps{steps_are}: {', '.join(over)}."


def all_methods() -> tuple[str, ...]:
    """Return the distilling methods of srkd, the baselines first; each has a recipe of the same name."""
    return (*FIRST, *sorted(METHODS.keys() - set(FIRST) - ELSEWHERE))


def all_rows() -> tuple[str, ...]:
    """Return the names of all rows without preset files."""
    return (*all_methods(), FIT_ALONE.name)


def all_contenders(methods: Sequence[str], files: Sequence[Path]) -> list[Contender]:
    """Return the contenders for recipes by name and for preset files, named after the files."""
    contenders = [
        Contender(name, name, TITLES.get(name, ""), width=WIDTH, settings=OPTIONS.get(name, ()))
        for name in methods
        if name != FIT_ALONE.name
    ]
    contenders += [FIT_ALONE] if FIT_ALONE.name in methods else []
    contenders += [preset_contender(file, OPTIONS, width=WIDTH) for file in files]
    if not contenders:
        raise SystemExit("nothing to compare: give --methods or --preset")
    names = [one.name for one in contenders]
    for name in names:
        if names.count(name) > 1 or (name in all_methods() and name not in methods):
            raise SystemExit(f"{name} is the name of two rows: name the file of --preset otherwise")
    return contenders


def ranking(scores: Scores) -> list[str]:
    """Return lines on pairs of methods whose published order differs from ours, over the sets of the published gains.

    Without `inherit`, whose published gain is that of a start: the students of most papers start at random.
    """
    comparable = {
        name: [{one: run[one] for one in SETS if one in run} for run in runs] for name, runs in scores.items()
    }
    names = [name for name in scores if name in PUBLISHED and name != "inherit" and all(comparable[name])]
    lines = []
    for first, second in combinations(names, 2):
        better, worse = sorted((first, second), key=lambda name: -sum(PUBLISHED[name].gains))
        ours, theirs = means(comparable[better]), means(comparable[worse])
        if sum(ours) < sum(theirs):
            # A published result is of the authors' method, which our "-style" version is not.
            above, below = (f"{name.upper()}'s" if name in TITLES else name for name in (better, worse))
            line = Gain.between(TITLES.get(better, better), theirs, ours).line()
            lines.append(f"- published {above} above {below}; here {TITLES.get(worse, worse)}: {line}")
    if len(names) < 2:
        return []
    return (
        ["Where our order is another than the published one:", *lines] if lines else ["Our order is the published one."]
    )
