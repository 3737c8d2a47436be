"""Larger batches with a teacher cache: `python -m benchmarks batches_compared --data BENCHMARKS [--train PHOTOS]`.

Students of the embedded teacher from the fit, by logits with `--teacher-cache`: a step costs the student alone, so the
same time has room for more patches a step or for more steps. Every row has the time of --steps steps of 4 patches. A
larger batch is tried at the recipe's rate, and at that times the square root of how much larger it is. The steps of a
row come from the processor time of a step of each batch, measured once, in turns, and kept in --out as costs.json.
BENCHMARKS holds Set5/, Set14/ and B100/. Finished runs are kept in --out.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.equal_budget import (
    Contender,
    budget_of,
    compare,
    conditions,
    leaders,
    parser_of,
    schedule_line,
    seconds_a_run,
    seeds_of,
    table,
)
from benchmarks.evidence import Benchmark, save
from benchmarks.method_costs import loop_of
from benchmarks.methods_compared import SETTINGS, WIDTH
from benchmarks.own_practice import OwnLoop
from compressor.base.files import atomic_path
from compressor.base.memory import keep_freed_memory
from recipes.config.reading import load_preset

BENCHMARK = Benchmark(
    "With a teacher cache, is the time better spent on larger batches or on more steps?",
    minutes=30,
    arguments=("--data", "{sets}", "--train", "{photos}"),
    small=("--data", "{sets}", "--steps", "2", "--seeds", "1", "--batches", "8", "--out", "runs/small/batches"),
)

RECIPE, SMALLEST = "logits", 4
BATCHES = (4, 8, 16)
LR_PATCH = next(int(setting.split("=")[1]) for setting in SETTINGS if setting.startswith("lr_patch="))
TURNS = 15


def main(arguments: Sequence[str] | None = None) -> int:
    parser = parser_of(__doc__, out="runs/batches-compared", steps=1200)
    parser.add_argument("--batches", default=",".join(map(str, BATCHES)), help="numbers separated by commas")
    options = parser.parse_args(arguments)
    batches = sorted({SMALLEST, *map(int, options.batches.split(","))})
    costs = step_costs(batches, options.out / "costs.json")
    contenders, budget = all_contenders(costs, options.steps), budget_of(options, SETTINGS)
    scores = compare(contenders, budget, options.data)
    folders = {one.name: budget.folder(one.name) for one in contenders}
    first, schedules = contenders[0], {name: schedule_line(folder) for name, folder in folders.items()}
    shared = f"The time of {options.steps:,} steps of {{patches}} for each row, cosine decay, teacher cache"
    step = ", ".join(f"{batch} patches {cost:.2f}" for batch, cost in costs.items() if batch != SMALLEST)
    result = table(
        contenders,
        scores,
        {},
        seconds_a_run(contenders, budget),
        first.name,
        schedules,
        caption=conditions(folders[first.name], shared=shared),
        conclusions=[
            f"Processor time of a step, 1 = {SMALLEST} patches: {step}.",
            "",
            *leaders(contenders, scores),
        ],
    )
    save("batches_compared", result, seeds=seeds_of(budget), variant=options.variant)
    return 0


def all_contenders(costs: Mapping[int, float], steps: int) -> list[Contender]:
    """Return every batch at the recipe's rate, and larger ones also at a higher rate; all take equal time."""
    rate, contenders = load_preset(RECIPE).schedule.rate, []
    for batch, cost in costs.items():
        factors = {"": 1.0} if batch == SMALLEST else {"": 1.0, "-sqrt": math.sqrt(batch / SMALLEST)}
        contenders += [
            Contender(
                f"batch{batch}{name}",
                RECIPE,
                f"{batch} patches" + (f", rate × {factor:.3g}" if name else ""),
                width=WIDTH,
                settings=("teacher_cache=true", f"schedule.batch={batch}", f"schedule.rate={rate * factor:.3g}"),
                steps=max(1, round(steps / cost)),
            )
            for name, factor in factors.items()
        ]
    return contenders


def step_costs(batches: Sequence[int], file: Path) -> dict[int, float]:
    """Return each batch's processor time per step divided by that of the smallest; results are cached in `file`.

    With a teacher cache a step of logits runs the student alone, like a step of `scratch`.
    """
    costs: dict[int, float] = {}
    if file.is_file():
        costs = {int(batch): float(cost) for batch, cost in json.loads(file.read_text(encoding="utf-8")).items()}
    if missing := set(batches) - costs.keys():
        # Stored costs take precedence, because the steps of finished runs were computed from them.
        costs = measured_costs(sorted(missing | {SMALLEST})) | costs
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(file) as temporary:
            temporary.write_text(json.dumps(costs), encoding="utf-8")
    return {batch: costs[batch] for batch in batches}


def measured_costs(batches: Sequence[int]) -> dict[int, float]:
    """Return the median ratio of each batch's time per step to that of the smallest, over some turns."""
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        loops = {
            batch: loop_of(
                "scratch",
                Path(folder) / str(batch),
                argparse.Namespace(batch=batch, lr_patch=LR_PATCH, width=WIDTH),
                "bf16",
            )
            for batch in batches
        }
        for loop in loops.values():
            loop.run(2)
        ratios: dict[int, list[float]] = {batch: [] for batch in batches}
        for _ in range(TURNS):
            seconds = {batch: processor_seconds(loop) for batch, loop in loops.items()}
            for batch in batches:
                ratios[batch].append(seconds[batch] / seconds[SMALLEST])
    return {batch: statistics.median(of_batch) for batch, of_batch in ratios.items()}


def processor_seconds(loop: OwnLoop) -> float:
    """Return the processor seconds of a step; other programs do not count."""
    start = time.process_time()
    loop.run(1)
    return time.process_time() - start


if __name__ == "__main__":
    sys.exit(main())
