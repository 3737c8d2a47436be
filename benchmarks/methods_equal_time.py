"""Every method in the same time: `python -m benchmarks methods_equal_time --data BENCHMARKS [--train PHOTOS]`.

As `methods_compared`, but each row has as many steps as take the time of --steps steps of logits. The time of a step is
measured first, in turns, and cached in --out, because the steps of finished runs depend on it.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from statistics import fmean

from benchmarks.equal_budget import Contender, budget_of, seeds_of
from benchmarks.evidence import Benchmark, Column, Row, Rows, Table, save
from benchmarks.method_costs import time_of
from benchmarks.methods_compared import (
    FIT_ALONE,
    START_IN_WORDS,
    TITLES,
    WIDTH,
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

ALIKE = {FIT_ALONE.name: "scratch"}
"""Rows whose step costs the same as that of another row."""
SHAPE = argparse.Namespace(batch=4, lr_patch=24, width=WIDTH)


def main() -> None:
    options = parser_with_methods(__doc__, out="runs/methods-equal-time").parse_args()
    contenders = contenders_of(options)
    options.out.mkdir(parents=True, exist_ok=True)
    rows = Rows(options.out / "costs.json")
    names = dict.fromkeys(ALIKE.get(one.name, one.name) for one in contenders)
    costs = {name: rows.get(name, partial(time_of, name, SHAPE)) for name in names}
    shared = f"the time of {options.steps:,} steps of logits for each, in steps of {{patches}}"
    steps_are = f", the time of {options.steps:,} of logits"
    steps = ", ".join(f"{TITLES.get(name, name)} {cost:.2f}" for name, cost in costs.items())
    timed = at_equal_time(contenders, costs, options.steps)
    result = compared(timed, budget_from(options), options.data, shared, steps_are)
    lines = [f"Time of a step over that of logits: {steps}.", "", *result.conclusions]
    tables = {"rows": replace(result, conclusions=lines), "by-method": by_method(result, costs)}
    save("methods_equal_time", tables, seeds=seeds_of(budget_of(options)), variant=options.variant)


def at_equal_time(contenders: Sequence[Contender], costs: Mapping[str, float], steps: int) -> list[Contender]:
    """Return contenders with as many steps as take the time of `steps` of logits; `costs` are times per step."""
    return [replace(one, steps=max(1, round(steps / costs[ALIKE.get(one.name, one.name)]))) for one in contenders]


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
        step = costs[ALIKE.get(name, name)]
        start = START_IN_WORDS[start]
        rows.append({"row": row["row"], "start": start, "step": step, "steps": steps, "gain": row["gain"]})
    return Table(columns, rows, f"{table.caption} Gains are means over the sets.")


def mean_of(row: Row) -> float:
    """Return the mean of a row's scores over sets and seeds."""
    return fmean(float(score) for key, score in row.items() if ", seed " in key and isinstance(score, float))
