"""Every method beside its own start under L1 in the same time: `python -m benchmarks methods --data SETS --train
PHOTOS`.

SETS holds Set5/, Set14/, B100/ and Urban100-20/ (HR/ and LRbicX4/ in each). The teacher is the embedded EDSR 16/48, or
that of --teacher, and the student half as wide, or that of --student; name those --variant. docs/results/README.md
has the rules, which this file keeps:

- A row has as many steps as take the processor time of --steps steps of logits: the steps of all stages count, those
  that tune a teacher too. The time that its runs then took stands in the row.
- Its control has its start (solved for, a slice, a slice of the turned teacher, random weights), the L1 loss alone,
  and as much time. The fit and the turning of a slice are the same in both.
- Rates are chosen for each row on photos that no table reports, the run's own validation images, with a seed of their
  own.
- A gain is the mean of differences that are paired over images and seeds, and a verdict takes three seeds.

Every finished run is kept: the command can be stopped and repeated, and `--methods` can add rows. `--preset FILE...`
adds recipes under their files' names.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean

from benchmarks.equal_budget import (
    FIRST_SEED,
    Budget,
    Contender,
    Published,
    Scores,
    budget_of,
    cells_of,
    conditions,
    paired,
    parser_of,
    possible,
    preset_contender,
    require_sets,
    scored,
    seeds_of,
    step_seconds,
    student_line,
    teacher_line,
    trained,
    training_seconds,
    validated,
)
from benchmarks.evidence import Benchmark, Column, Row, Rows, Table, save
from compressor.assets import embedded_teacher
from compressor.base.processes import SharedFailure
from compressor.inference.metric_table import METRICS
from recipes.catalogue import METHODS
from recipes.config.listing import list_recipes
from recipes.config.options import options_model
from recipes.config.preset import Preset
from recipes.config.reading import load_preset

BENCHMARK = Benchmark(
    "Which method is better than L1 from the same start in the same time?",
    minutes=80,
    arguments=("--data", "{sets}", "--train", "{photos}"),
    small=(
        *("--data", "{sets}", "--steps", "2", "--seeds", "1", "--methods", "logits,csd-lite"),
        *("--out", "runs/small/methods"),
    ),
)

BOUND_DB = METRICS["psnr"].equal_within
WIDTH = 0.5
"""Width of the student, which is not shorter than the teacher because joint training takes no shorter student."""
STEPS = 600
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
UNLIKE_THE_PAPER: Mapping[str, str] = {
    "csd": "csd, with φ = the teacher (VGG-19 in the paper), K = 4 (10), width 1/2 (1/4), 4 patches (16)",
    "csd-lite": "csd-lite, with φ = the teacher (VGG-19), K = 4 (10)",
}
"""Labels of rows that say what differs from the paper, before any number."""
ELSEWHERE = {"pams", "pact", "perceptual", "calm", "scratch", "inherit"}
"""Methods of other questions: quantised students, looks, and films; and L1 from two starts, which are controls."""
SETTINGS = ("batch=4", "lr_patch=24", "decay=cosine", "validate_every=100000")
"""Settings of all runs; only the last step is validated."""
CONTROLS: Mapping[str, Contender] = {
    "fit": Contender("fit-l1", "scratch", "fit + L1", width=WIDTH, init="fit"),
    "leading": Contender("slice-l1", "inherit", "slice + L1", width=WIDTH),
    "principal": Contender("turned-slice-l1", "inherit", "turned slice + L1", width=WIDTH, select="principal"),
    "random": Contender("random-l1", "scratch", "random weights + L1", width=WIDTH),
}
"""L1 alone by the start that it shares with rows: `init`, or the choice of channels of a slice."""
INTERVAL_SHARE = 250 / 2000
"""Steps between updates of dckd's earlier student as a share of its recipe's: a short run has as many updates."""

PUBLISHED: Mapping[str, Published] = {
    "logits": Published((0.01, 0.02, 0.00), "DUKD, table 2, EDSR 32/64, random start"),
    "dukd": Published((0.18, 0.12, 0.07), "DUKD, table 2, EDSR 32/64, random start"),
    "fakd": Published((0.036, 0.021, 0.019), "CLSD's table, EDSR 16/64, random start"),
    "lfd": Published((0.005, -0.002, 0.014), "CLSD's table, EDSR 16/64, random start"),
    "ds": Published((0.010, 0.019, 0.011), "CLSD's table, EDSR 16/64, random start"),
    "clsd": Published((-0.003, 0.030, 0.022), "CLSD's table, EDSR 16/64, random start"),
    "csd": Published((0.11, 0.09, 0.08), "CSD, table 1, EDSR+ at width 0.25; joint training without contrast -0.003"),
}
"""Gains over the source's own baseline, whose start and length are its own."""


def main() -> None:
    options = parser_with_methods(__doc__, out="runs/methods").parse_args()
    budget = budget_from(options)
    require_sets(options.data, budget.sets)
    contenders, left_out = possible(contenders_of(options), budget)
    options.out.mkdir(parents=True, exist_ok=True)
    rows = Rows(options.out / "rows.json")
    seconds = {one.name: step_seconds(one, budget) for one in contenders}
    timed = [with_steps(one, seconds[one.name], options.steps * seconds["logits"]) for one in contenders]
    chosen = [with_rate(one, rows, budget) for one in timed]
    scores: dict[str, list[dict[str, list[float]]]] = {one.name: [] for one in chosen}
    for seed in seeds_of(budget):
        for one in chosen:
            scores[one.name].append(scored(trained(one, seed, budget), options.data, budget.sets))
    table = table_of(chosen, scores, budget, f"the processor time of {options.steps:,} steps of logits for each row")
    save("methods", replace(table, conclusions=[*table.conclusions, *left_out]), seeds=seeds_of(budget),
         variant=options.variant)  # fmt: skip


def parser_with_methods(words: str | None, *, out: str) -> argparse.ArgumentParser:
    parser = parser_of(words, out=out, steps=STEPS)
    parser.add_argument("--methods", default=",".join(all_methods()), help="names separated by commas")
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
    """Return logits, the chosen methods and preset files, and after them the controls of their starts."""
    names = dict.fromkeys(["logits", *filter(None, options.methods.split(","))])
    rows = [
        Contender(name, name, UNLIKE_THE_PAPER.get(name, TITLES.get(name, "")), width=WIDTH,
                  settings=OPTIONS.get(name, ()))
        for name in names
    ]  # fmt: skip
    rows += [preset_contender(file, OPTIONS, width=WIDTH) for file in options.preset]
    taken = [one.name for one in rows]
    if twice := next((name for name in taken if taken.count(name) > 1), None):
        raise SystemExit(f"{twice} is the name of two rows: name the file of --preset otherwise")
    # Recipes without a teacher need one for the fit.
    teacher = options.teacher or (embedded_teacher() if options.student else None)
    shape = {"student": options.student, "width": None} if options.student else {}
    rows += [CONTROLS[start] for start in dict.fromkeys(map(start_of, rows))]
    return [replace(one, teacher=teacher, **shape) for one in rows]


def start_of(one: Contender) -> str:
    """Return the first weights of a contender: `fit`, `random`, or the choice of channels of its slice."""
    preset: Preset = load_preset(one.recipe)
    start = one.init or preset.student.init
    return str(one.select or preset.student.select) if start == "inherit" else start


def all_methods() -> tuple[str, ...]:
    """Return the distilling methods of srkd; each has a recipe of the same name."""
    return ("logits", *sorted(METHODS.keys() - ELSEWHERE - {"logits"}))


def with_steps(one: Contender, step_seconds: float, seconds: float) -> Contender:
    """Return a contender with as many steps as take `seconds`, and what follows from so few."""
    steps = max(1, round(seconds / step_seconds))
    interval = max(1, round(INTERVAL_SHARE * steps))
    scaled = (f"{one.name}.intervals=[{interval}]",) if one.name == "dckd" else ()
    return replace(one, steps=steps, settings=(*one.settings, *scaled))


DIVERGED = 0.0
"""In dB, for a rate at which training does not go on."""


def with_rate(one: Contender, rows: Rows, budget: Budget) -> Contender:
    """Return a contender with the best of its recipe's rate, half and double of it, and so on while an end is best."""

    def at(rate: float) -> Contender:
        return replace(one, rate=rate)

    def measure(rate: float) -> float:
        folder = budget.out / "rates" / f"{rate:g}"
        try:
            return validated(trained(at(rate), FIRST_SEED - 1, replace(budget, out=folder)))
        except SharedFailure:  # ten steps in a row that are no numbers, or far too large
            return DIVERGED

    preset = load_preset(one.recipe).schedule
    start = preset.rate if start_of(one) in ("leading", "random") else preset.fit_rate or preset.rate
    return at(best_rate(start, lambda rate: float(rows.get(f"{one.name} at {rate:g}", partial(measure, rate)))))


def best_rate(start: float, quality: Callable[[float], float]) -> float:
    """Return the best of rates that are factors of two apart, from `start` uphill until the next one is worse."""
    rates = {rate: quality(rate) for rate in (start / 2, start, start * 2)}
    while (best := max(rates, key=rates.__getitem__)) in (min(rates), max(rates)):
        following = best / 2 if best == min(rates) else best * 2
        rates[following] = quality(following)
    return best


def table_of(contenders: Sequence[Contender], scores: Scores, budget: Budget, shared: str) -> Table:
    """Return the rows, each beside its control, the best gain first; then the controls."""
    controls = {one.name for one in CONTROLS.values()}
    rows = [one for one in contenders if one.name not in controls]
    first = budget.folder(contenders[0].name)
    of_logits = fmean(training_seconds(budget.folder("logits", seed)) for seed in seeds_of(budget))
    entries: list[Row] = []
    for one in contenders:
        seconds = [training_seconds(budget.folder(one.name, seed)) for seed in seeds_of(budget)]
        control = CONTROLS[start_of(one)]
        entry: dict[str, str | float | int | None] = {
            "name": one.name,
            "row": one.label,
            **cells_of(scores[one.name]),
            "steps": one.steps,
            "rate": one.rate,
            "time": fmean(seconds) / of_logits,
            "published": str(PUBLISHED.get(one.name, "")),
        }
        if one in rows:
            gain = paired(scores, one.name, control.name)
            verdict = gain.verdict(budget.seeds, BOUND_DB, len(rows))
            entry |= {
                "control": control.label,
                "gain": f"{gain.mean:+.3f}" + ("" if gain.error is None else f" ± {gain.error:.3f}"),
                "p": min(1.0, gain.p_value() * len(rows)),
                "verdict": verdict,
                "mean": gain.mean,
            }
            entry["sentence"] = (
                f"Beside {control.label} in the same time ({one.steps:,} steps): {entry['gain']} dB, {verdict}."
            )
        entries.append(entry)
    entries.sort(key=lambda entry: -float(entry.get("mean") or -9))
    columns = [
        Column("row", ""), Column("control", "beside"), Column("gain", "gain, dB"), Column("p", "p", ".2g"),
        Column("verdict", "verdict"), Column("steps", "steps", ",d"), Column("rate", "rate", "g"),
        Column("time", "time", ".2f"), *(Column(name, name) for name in budget.sets), Column("published", "published"),
    ]  # fmt: skip
    images = sum(len(scores[contenders[0].name][0][name]) for name in budget.sets)
    caption = (
        f"Teacher: {teacher_line(first)}; student {student_line(first)}; {conditions(first, shared=shared)} "
        f"Gains are means over {images} images and {budget.seeds} seeds ± the standard error; p is two-sided, times "
        f"{len(rows)} rows; no difference: within ±{BOUND_DB:g} dB by two one-sided tests; not settled: neither is "
        "shown. "
        "Time is that of the row's training, logits = 1."
    )
    return Table(columns, entries, caption)
