"""Patches chosen by texture: `python -m benchmarks crops_compared --data BENCHMARKS [--train PHOTOS]`.

Students of the embedded teacher after equal steps, from the fit: with any patches, and with the most textured of two,
four and eight positions each (`schedule.crop_candidates`). Positions apart, both have the same images and symmetries.
BENCHMARKS holds Set5/, Set14/ and B100/. Finished runs are kept in --out.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from benchmarks.equal_budget import (
    Contender,
    budget_of,
    compared,
    parser_of,
    seeds_of,
)
from benchmarks.evidence import Benchmark, Table, save
from benchmarks.methods_compared import SETTINGS, WIDTH

BENCHMARK = Benchmark(
    "Do students gain from the most textured of several patches?",
    minutes=20,
    arguments=("--data", "{sets}", "--train", "{photos}"),
    small=("--data", "{sets}", "--steps", "2", "--seeds", "1", "--candidates", "1,2", "--out", "runs/small/crops"),
)

RECIPES = {"logits": "logits", "scratch": "L1 from the fit"}
CANDIDATES = (1, 2, 4, 8)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = parser_of(__doc__, out="runs/crops-compared", steps=300)
    parser.add_argument("--candidates", default=",".join(map(str, CANDIDATES)), help="numbers separated by commas")
    options = parser.parse_args(arguments)
    budget, tables = budget_of(options, SETTINGS), dict[str, Table]()
    for recipe, title in RECIPES.items():
        contenders = [
            Contender(
                f"{recipe}-crops{count}",
                recipe,
                f"{title}, {'any patch' if count == 1 else f'best of {count}'}",
                width=WIDTH,
                init="fit",
                settings=(f"schedule.crop_candidates={count}",),
            )
            for count in map(int, options.candidates.split(","))
        ]
        tables[recipe] = compared(contenders, budget, options.data, timed=False)
    save("crops_compared", tables, seeds=seeds_of(budget), variant=options.variant)
    return 0


if __name__ == "__main__":
    sys.exit(main())
