"""Scratch, inherit, fit and logits at equal budget: `python -m benchmarks recipes_compared --data BENCHMARKS`.

BENCHMARKS holds Set5/, Set14/ and B100/ (HR/ and LRbicX4/ in each). The teacher is the embedded EDSR 16/48, the student
EDSR 16/24, and the schedule that of `make quickstart`: does its gain lie outside the spread of the seeds? Every run has
the same schedule and, for one seed, the same batches, whose hashes are compared. Without --train the embedded photos
are the training set. A run that was stopped is continued by the same command, and a finished one is only evaluated
again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import srkd
from benchmarks.equal_budget import SETS, cells_of, facts_of, say
from benchmarks.evidence import Benchmark, Column, Row, Table, save
from compressor.base.machine import machine_facts
from compressor.inference.evaluate import Evaluation
from srkd import compress, resume
from srkd.record.trials import Gain

SETTINGS = ("batch=4", "lr_patch=24", "decay=cosine")
BENCHMARK = Benchmark(
    "Does the quickstart's student gain from its teacher, outside the spread of seeds?",
    minutes=45,
    arguments=("--data", "{sets}"),
    small=("--data", "{sets}", "--steps", "2", "--seeds", "1", "--out", "runs/small/recipes"),
)
WIDTH = 0.5


@dataclass(frozen=True)
class Finished:
    """The scores of a run's student: Y-PSNR in dB by benchmark set."""

    variant: str
    seed: int
    psnr_y: Mapping[str, float]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with Set5, Set14 and B100")
    parser.add_argument("--train", type=Path, help="photographs to train on; none: the embedded ones")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/recipes-compared"))
    options = parser.parse_args()
    run(options.out, options.train, options.steps, options.seeds)
    result, seeds = compared(options.out, options.data)
    save("recipes_compared", result, seeds=seeds)
    return 0


def run(out: Path, train: Path | None, steps: int, seeds: int) -> None:
    """Train the unfinished runs of the plan."""
    if (out / "run.json").is_file():
        if "result" not in facts_of(out):
            resume(out, announce=say)
        return
    settings = tuple(f"schedule.{setting}" for setting in SETTINGS)
    compress(
        recipe="logits",
        data=train,
        width=WIDTH,
        steps=steps,
        seeds=seeds,
        with_baseline=True,
        settings=settings,
        out=out,
        announce=say,
    )


def compared(out: Path, data: Path) -> tuple[Table, Sequence[int]]:
    """Return the table with its caption and conclusions, and the seeds."""
    facts = facts_of(out)
    runs = facts["result"]["trials"]["runs"]
    sets = {name: srkd.evaluate([out / run["run"] for run in runs], data=data / name) for name in SETS}
    finished = [
        Finished(run["variant"], run["seed"], {name: _psnr(sets[name], run["run"], name) for name in SETS})
        for run in runs
    ]
    teacher = {name: _psnr(srkd.evaluate(facts["teacher"]["path"], data=data / name), "teacher", name) for name in SETS}
    bicubic = {name: _psnr(sets[name], "bicubic", name) for name in SETS}
    protocol = sets[SETS[0]].protocol
    caption = _heading(facts, str(protocol))
    seeds = sorted({one.seed for one in finished})
    return replace(table(finished, bicubic, teacher), caption=caption, conclusions=gains(finished)), seeds


def _heading(facts: Mapping[str, Any], protocol: str) -> str:
    rule, machine, trials = facts["preset"]["schedule"], machine_facts(), facts["result"]["trials"]
    teacher, student = srkd.load(facts["teacher"]["path"]).spec.to_dict(), facts["student"]
    return (
        f"Teacher EDSR {teacher['depth']}/{teacher['width']} (the embedded one), student EDSR "
        f"{student['depth']}/{student['width']}, ×{student['scale']}; {rule['steps']:,} steps of {rule['batch']} "
        f"patches of {rule['lr_patch']}×{rule['lr_patch']} LR pixels, Adam, rate {rule['rate']:g} with cosine decay, "
        f"{rule['precision']}, trained on {facts['data']['origin']} ({facts['data']['used']} images). "
        f"{len(trials['seeds'])} seeds, {len(trials['runs'])} runs on "
        f"{facts['machine']['cpu']}, {facts['machine']['torch_threads']} thread(s), torch {machine['torch']}. "
        f"Y-PSNR in dB, {protocol}, mean ± sd over seeds."
    )


def table(finished: Sequence[Finished], bicubic: Mapping[str, float], teacher: Mapping[str, float]) -> Table:
    """Return a row per variant, with scores also by seed, between the rows of bicubic and the teacher."""
    variants = dict[str, list[Finished]]()
    for one in finished:
        variants.setdefault(one.variant, []).append(one)
    trained: list[Row] = [
        {"row": variant, **cells_of([one.psnr_y for one in runs], runs[0].seed)} for variant, runs in variants.items()
    ]
    rows: list[Row] = [{"row": "bicubic", **bicubic}, *trained, {"row": "teacher", **teacher}]
    return Table([Column("row", ""), *(Column(name, name, ".3f") for name in SETS)], rows)


def gains(finished: Sequence[Finished]) -> list[str]:
    """Return lines on the gain of logits over each baseline, and of each baseline over those with worse starts."""
    lines = []
    for ours, theirs in combinations(("logits", "fit", "inherit", "scratch"), 2):
        for name in SETS:
            gain = Gain.between(theirs, _figures(finished, ours, name), _figures(finished, theirs, name))
            lines.append(f"- {name}, {ours}: {gain.line()}")
    return lines


def _figures(finished: Sequence[Finished], variant: str, name: str) -> list[float]:
    return [one.psnr_y[name] for one in finished if one.variant == variant]


def _psnr(evaluation: Evaluation, model: str, name: str) -> float:
    return evaluation.models[model][name].psnr_y


if __name__ == "__main__":
    sys.exit(main())
