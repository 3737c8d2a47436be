"""Every method at several rates from the same fit: `python -m benchmarks rates_compared --data BENCHMARKS`.

BENCHMARKS holds Set5/, Set14/ and B100/ (HR/ and LRbicX4/ in each). The rows are those of `methods_compared` whose
students start from a fit, and csd, which starts from a slice of the turned teacher; a rate takes the place of the
preset's own. Every finished run is kept in --out: the command can be stopped and repeated.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace

from benchmarks.equal_budget import (
    FIRST_SEED,
    SETS,
    Contender,
    Scores,
    budget_of,
    compare,
    conditions,
    parser_of,
    seeds_of,
    student_line,
)
from benchmarks.evidence import Benchmark, Cell, Column, Row, Table, save
from benchmarks.methods_compared import FIT_ALONE, SETTINGS, all_contenders
from srkd.record.trials import Spread

BENCHMARK = Benchmark(
    "Which rate suits each method from a fit?",
    minutes=110,
    arguments=("--data", "{sets}", "--train", "{photos}", "--seeds", "1"),
    small=(
        *("--data", "{sets}", "--steps", "2", "--seeds", "1", "--methods", "logits", "--rates", "1e-4,8e-4"),
        *("--out", "runs/small/rates"),
    ),
)

METHODS = (FIT_ALONE.name, "logits", "fakd", "facd", "dukd", "hkdsr", "csd-lite", "lfd", "ds", "clsd", "csd")
RATES = ("1e-4", "2e-4", "4e-4", "8e-4", "1.6e-3")


def at_rate(one: Contender, rate: str) -> Contender:
    return replace(one, name=f"{one.name}-rate{rate}", settings=(*one.settings, f"schedule.rate={rate}"))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = parser_of(__doc__, out="runs/rates-compared", steps=300)
    parser.add_argument("--methods", default=",".join(METHODS), help="names separated by commas")
    parser.add_argument("--rates", default=",".join(RATES), help="rates separated by commas")
    options = parser.parse_args(arguments)
    budget, rates = budget_of(options, SETTINGS), options.rates.split(",")
    methods = all_contenders(options.methods.split(","), [])
    contenders = [at_rate(one, rate) for one in methods for rate in rates]
    scores = compare(contenders, budget, options.data)
    first = budget.folder(contenders[0].name)
    shared = f"{options.steps:,} steps of {{patches}}, cosine decay"
    seeds = seeds_of(budget)
    spread = "one seed" if len(seeds) == 1 else "mean ± sd"
    caption = f"Student {student_line(first)}; {conditions(first, shared=shared, spread=spread)}"
    save("rates_compared", tables(methods, rates, scores, caption), seeds=seeds, variant=options.variant)
    return 0


def tables(methods: Sequence[Contender], rates: Sequence[str], scores: Scores, caption: str) -> dict[str, Table]:
    """Return a table per set, with a row per method, a column per rate, and the scores of each seed."""
    columns = [Column("row", "method"), *(Column(rate, rate) for rate in rates)]
    return {
        name: Table(columns, [row(one, rates, scores, name) for one in methods], f"{name}. {caption}") for name in SETS
    }


def row(one: Contender, rates: Sequence[str], scores: Scores, name: str) -> Row:
    cells: dict[str, Cell] = {"row": one.label}
    of_set: Mapping[str, Sequence[float]] = {
        rate: [run[name] for run in scores[at_rate(one, rate).name]] for rate in rates
    }
    cells |= {rate: str(Spread.of(values)) for rate, values in of_set.items()}
    for rate, values in of_set.items():
        cells |= {f"{rate}, seed {seed}": value for seed, value in enumerate(values, FIRST_SEED)}
    return cells


if __name__ == "__main__":
    sys.exit(main())
