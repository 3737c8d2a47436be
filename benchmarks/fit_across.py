"""Students of another kind than their teacher: `python -m benchmarks fit_across --photos PHOTOS --val FOLDER`.

Each shape is solved for and polished (`--recipe fit`), then trained with logits for as many steps as take --minutes,
from the solved start, from random weights, and from these with the optimiser that the solved start has. Finished runs
are kept, in --out.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import srkd
from benchmarks.evidence import Benchmark, Cell, Column, Row, Table, save
from compressor.base.machine import machine_facts
from compressor.models.networks.cost import cost
from compressor.models.students.students import parse_student

BENCHMARK = Benchmark(
    "What does a student of another kind than its teacher score that is solved for, and after minutes of training?",
    minutes=50,
    arguments=("--photos", "{photos}", "--val", "{sets}/Set5"),
    small=(
        "--photos", "{photos}", "--val", "{sets}/Set5", "--minutes", "0.02", "--shapes", "compact:width=8,depth=1",
        "--out", "runs/small/fit-across",
    ),
)  # fmt: skip

SHAPES = "compact:width=56,depth=3;compact:width=64,depth=6;compact:width=64,depth=16"
SETTINGS = ("schedule.batch=8", "schedule.lr_patch=32")
MARKS = (0.2, 0.4, 0.6, 0.8, 1.0)
"""Shares of the training at which the curve is shown."""
WITH_SOAP = ("schedule.optimiser=soap", "schedule.rate=3e-3")
"""The best settings from random weights (docs/use/recipes.md)."""
AT_THE_END = ("schedule.validate_every=1000000",)
WARM_UP = 20
"""Steps by which the time of a step is measured."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="folder of HR photos to fit and train on")
    parser.add_argument("--val", type=Path, required=True, help="folder of HR images to score")
    parser.add_argument("--teacher", help="a checkpoint; left out: the embedded teacher")
    parser.add_argument("--shapes", default=SHAPES, help="students, separated by semicolons")
    parser.add_argument("--minutes", type=float, default=5.0, help="minutes of training")
    parser.add_argument("--out", type=Path, default=Path("runs/fit-across"), help="folder of the runs")
    parser.add_argument("--variant", default="", help="ending of the result's name")
    options = parser.parse_args()
    shapes = options.shapes.split(";")
    rows, curves = [], []
    for number, shape in enumerate(shapes):
        row, curve = measured(shape, options, options.out / f"{number}-{file_name(shape)}")
        rows.append(row)
        curves += curve
    teacher = options.teacher or "the embedded EDSR 16/48"
    caption = (
        f"Teacher: {teacher}, {rows[0]['teacher']:.3f} dB on {options.val.name}; bicubic {rows[0]['bicubic']:.3f}. "
        f"Patches and training from {options.photos.name}; {options.minutes:g} minutes are as many steps of logits of "
        "8 patches of 32×32, SOAP at 8e-4 from the fit, from random weights Adam at 8e-4, or SOAP at 3e-3; one seed; "
        f"{machine_facts()['cpu']}, {torch.get_num_threads()} thread(s)."
    )
    save(
        "fit_across",
        {"students": Table(COLUMNS, rows, caption), "curves": Table(CURVE, curves, caption)},
        seeds=[0],
        variant=options.variant,
    )
    return 0


COLUMNS = (
    Column("student", "student"),
    Column("params", "parameters", ",d"),
    Column("solved", "solved for", ".3f"),
    Column("solved_seconds", "s", ".0f"),
    Column("recipe", "recipe fit", ".3f"),
    Column("recipe_seconds", "s", ".0f"),
    Column("from_fit", "then logits", ".3f"),
    Column("from_random", "logits from random weights", ".3f"),
    Column("from_random_soap", "by SOAP", ".3f"),
    Column("steps", "steps", ",d"),
)
CURVE = (
    Column("student", "student"),
    Column("start", "start"),
    *(Column(f"at_{round(100 * mark)}", f"{round(100 * mark)} % of the time", ".2f") for mark in MARKS),
)


def measured(shape: str, options: argparse.Namespace, folder: Path) -> tuple[Row, list[Row]]:
    """Return the row of a student, and its curves from both starts."""
    recipe = run(folder / "recipe", options, shape, recipe="fit")
    look = run(folder / "look", options, shape, recipe="logits", init="random", steps=WARM_UP, settings=SETTINGS)
    steps = max(10, round(60 * options.minutes / look["seconds"] * WARM_UP))
    every = (*SETTINGS, f"schedule.validate_every={max(1, steps // 20)}")
    fitted = run(folder / "fit", options, shape, recipe="logits", steps=steps, settings=every)
    random = run(folder / "random", options, shape, recipe="logits", init="random", steps=steps, settings=every)
    quicker = (*every, *WITH_SOAP)
    soap = run(folder / "random-soap", options, shape, recipe="logits", init="random", steps=steps, settings=quicker)
    row: dict[str, Cell] = {
        "student": shape,
        "params": cost(parse_student(shape, scale=recipe["scale"])).params,
        "solved": recipe["untrained"],
        "solved_seconds": recipe["solved_seconds"],
        "recipe": recipe["psnr"],
        "recipe_seconds": recipe["whole_seconds"],
        "from_fit": fitted["psnr"],
        "from_random": random["psnr"],
        "from_random_soap": soap["psnr"],
        "steps": steps,
        "teacher": recipe["teacher"],
        "bicubic": recipe["bicubic"],
    }
    curves: list[Row] = []
    starts = (("solved for", fitted), ("random weights", random), ("random weights, SOAP", soap))
    for start, result in starts:
        points: Mapping[int, float] = {int(step): psnr for step, psnr in result["curve"].items()}
        shown = {f"at_{round(100 * mark)}": points[nearest(points, mark * steps)] for mark in MARKS}
        curves.append({"student": shape, "start": start, **shown, "all": json.dumps(points)})
    return row, curves


def file_name(student: str) -> str:
    """Return a student as the name of a file or folder."""
    return student.replace(":", "-").replace(",", "-")


def nearest(points: Mapping[int, float], step: float) -> int:
    """Return the validated step that is nearest to a step."""
    return min(points, key=lambda at: abs(at - step))


def run(folder: Path, options: argparse.Namespace, shape: str, **words: Any) -> dict[str, Any]:
    """Train a run, or read it if it is finished, and return its figures."""
    kept = folder.with_name(f"{folder.name}.json")
    if kept.exists():
        facts: dict[str, Any] = json.loads(kept.read_text())
        return facts
    shutil.rmtree(folder, ignore_errors=True)  # a run that was interrupted
    lines: list[str] = []
    steps: dict[int, float] = {}
    before: dict[str, list[float]] = {"fit": [], "degrading": [], "teacher on": []}

    def progress(title: str, done: int, total: int) -> None:
        if title == "training":
            steps.setdefault(done, time.process_time())
        for work in before:
            if title.startswith(work):
                before[work].append(time.process_time())

    began = time.monotonic()
    report = srkd.compress(
        options.teacher, student=shape, data=options.photos, val=[options.val], out=folder,
        announce=lines.append, progress=progress, **{"cache_size": 0, **words},
    )  # fmt: skip
    whole = time.monotonic() - began
    last = max(steps)
    solved = next((line for line in lines if "solved for in" in line), "solved for in 0 s")
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    curve = {entry["step"]: entry["student_psnr_y"] for entry in metrics if entry["kind"] == "validation"}
    facts = {
        "psnr": report.student.psnr_y,
        "teacher": report.teacher.psnr_y if report.teacher is not None else None,
        "bicubic": report.bicubic.psnr_y,
        "psnr_teacher": report.student.psnr_y_teacher,
        "bicubic_teacher": report.bicubic.psnr_y_teacher,
        "untrained": None if report.untrained is None else report.untrained.student,
        "solved_seconds": float(solved.partition("solved for in ")[2].split(" s")[0]),
        "whole_seconds": whole,
        "seconds": report.seconds,
        "step_seconds": (steps[last] - steps[1]) / max(1, last - 1),
        "seconds_before": sum(times[-1] - times[0] for times in before.values() if times),
        "curve": curve,
        "scale": srkd.load(folder).descriptor.scale,
    }
    kept.write_text(json.dumps(facts))
    return facts


if __name__ == "__main__":
    sys.exit(main())
