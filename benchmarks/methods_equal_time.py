"""Every method in the same time: `python -m benchmarks methods_equal_time --data BENCHMARKS [--train PHOTOS]`.

As `methods_compared`, but each row has as many steps as take the time of --steps steps of logits. The processor
time of a step is measured first, in short runs, and cached in --out, because the steps of finished runs depend on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from statistics import fmean

from benchmarks.equal_budget import Contender, budget_of, possible, seeds_of, step_seconds
from benchmarks.evidence import Benchmark, Column, Row, Rows, Table, save
from benchmarks.methods_compared import (
    START_IN_WORDS,
    TITLES,
    budget_from,
    compared,
    contenders_of,
    parser_with_methods,
)

BENCHMARK = Benchmark(
    "Which method gives the best student in the same time?",
    minutes=100,
    arguments=("--data", "{sets}", "--train", "{photos}", "--steps", "600"),
    small=(
        *("--data", "{sets}", "--steps", "2", "--seeds", "1", "--methods", "logits,csd-lite,fit-l1"),
        *("--out", "runs/small/equal-time"),
    ),
)


def main() -> None:
    options = parser_with_methods(__doc__, out="runs/methods-equal-time").parse_args()
    contenders = contenders_of(options)
    options.out.mkdir(parents=True, exist_ok=True)
    rows = Rows(options.out / "seconds.json")
    budget = budget_from(options)
    if all(one.name != "logits" for one in contenders):
        raise SystemExit("--methods: the time is that of logits, so it must be among them")
    contenders, left_out = possible(contenders, replace(budget, steps=1, out=budget.out / "tried"))
    seconds = {one.name: rows.get(one.name, partial(step_seconds, one, budget)) for one in contenders}
    costs = {name: each / seconds["logits"] for name, each in seconds.items()}
    shared = f"the time of {options.steps:,} steps of logits for each, in steps of {{patches}}"
    steps_are = f", the time of {options.steps:,} of logits"
    steps = ", ".join(f"{TITLES.get(name, name)} {cost:.2f}" for name, cost in costs.items())
    timed = at_equal_time(contenders, costs, options.steps)
    result = compared(timed, budget, options.data, shared, steps_are)
    lines = [f"Time of a step over that of logits: {steps}.", "", *result.conclusions, *left_out]
    tables = {"rows": replace(result, conclusions=lines), "by-method": by_method(result, costs)}
    save("methods_equal_time", tables, seeds=seeds_of(budget_of(options)), variant=options.variant)


def at_equal_time(contenders: Sequence[Contender], costs: Mapping[str, float], steps: int) -> list[Contender]:
    """Return contenders with as many steps as take the time of `steps` of logits; `costs` are times per step."""
    return [replace(one, steps=max(1, round(steps / costs[one.name]))) for one in contenders]


def by_method(table: Table, costs: Mapping[str, float]) -> Table:
    """Return a row for each method, the best first, with its gain; `costs` are times per step."""
    gain = next(column for column in table.columns if column.key == "gain")
    columns = [
        Column("row", ""),
        *(Column("start", "start"), Column("step", "time of a step, logits = 1", ".2f"), Column("steps", "steps")),
        gain,
    ]
    rows: list[Row] = []
    for row in sorted(table.rows, key=lambda row: -mean_of(row)):
        name, (start, steps) = str(row["name"]), str(row["schedule"]).split(" at ")[0].split(", ", 1)
        step = costs[name]
        start = START_IN_WORDS[start]
        rows.append({"row": row["row"], "start": start, "step": step, "steps": steps, "gain": row["gain"]})
    return Table(columns, rows, f"{table.caption} Gains are means over the sets.")


def mean_of(row: Row) -> float:
    """Return the mean of a row's scores over sets and seeds."""
    return fmean(float(score) for key, score in row.items() if ", seed " in key and isinstance(score, float))
