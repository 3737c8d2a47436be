"""Students of another kind than their teacher: `python -m benchmarks fit_across --photos PHOTOS --val FOLDER`.

Each shape is solved for and polished (`--recipe fit`), then trained with logits for as many steps as take --minutes,
from the solved start, from random weights, and from these with the optimiser that the solved start has. Finished runs
are kept, in --out.

With `--teachers A;B` each shape is solved for and polished under each teacher for --minutes in all, and trained from
random weights for as long; both are judged by the teacher's own images.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import srkd
from benchmarks.evidence import Benchmark, Cell, Column, Result, Row, Table, results_folder, save
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
    parser.add_argument("--teachers", help="checkpoints, separated by semicolons, whose students get --minutes in all")
    parser.add_argument("--shapes", default=SHAPES, help="students, separated by semicolons")
    parser.add_argument("--minutes", type=float, default=5.0, help="minutes of training")
    parser.add_argument("--out", type=Path, default=Path("runs/fit-across"), help="folder of the runs")
    parser.add_argument("--variant", default="", help="ending of the result's name")
    options = parser.parse_args()
    shapes = options.shapes.split(";")
    if options.teachers:
        return in_minutes(options, shapes)
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


MINUTES = (
    Column("teacher", "teacher"),
    Column("student", "student"),
    Column("params", "parameters", ",d"),
    Column("bicubic", "bicubic", ".2f"),
    Column("solved", "solved for", ".2f"),
    Column("solved_seconds", "s", ".0f"),
    Column("fit", "recipe fit", ".2f"),
    Column("fit_steps", "steps", ",d"),
    Column("fit_whole", "s", ".0f"),
    Column("random", "from random weights", ".2f"),
    Column("random_steps", "steps", ",d"),
    Column("random_whole", "s", ".0f"),
    Column("over_bicubic", "fit over bicubic", "+.2f"),
    Column("over_random", "fit over random", "+.2f"),
)


def in_minutes(options: argparse.Namespace, shapes: list[str]) -> int:
    """Write the table of what --minutes give the students of each teacher from either start."""
    rows = [in_minutes_of(Path(teacher), shape, options) for teacher in options.teachers.split(";") for shape in shapes]
    caption = (
        f"Luma PSNR to the teacher's own images of {options.val.parent.name}. A student has {options.minutes:g} "
        f"minute(s) of one thread's processor time on {options.photos.name}, validation apart: recipe fit, solving "
        "included, or logits from random weights, on 4 patches of 32×32 a step; SOAP at 1e-3 from the fit, Adam "
        f"at 8e-4 from random weights, one seed; {machine_facts()['cpu']}, beside other work."
    )
    table = Table(MINUTES, rows, caption)
    file = results_folder() / "fit_across.json"
    if file.is_file() and not options.variant:  # beside the students of one teacher, which keep their command and date
        result = Result.read(file)
        replace(result, tables={**result.tables, "minutes": table}).write(file.parent)
    else:
        save("fit_across", {"minutes": table}, seeds=[0], variant=options.variant)
    return 0


def in_minutes_of(teacher: Path, shape: str, options: argparse.Namespace) -> Row:
    folder = options.out / f"{teacher.stem}-{file_name(shape)}"
    options.teacher, goal = teacher, {"goal": "teacher", "batch": 4, "lr_patch": 32, "settings": AT_THE_END}
    look = run(folder / "look", options, shape, recipe="fit", steps=WARM_UP, **goal)
    left = 60 * options.minutes - look["fit_seconds"]
    steps, most = (max(1, round(time / look["step_seconds"])) for time in (left, 60 * options.minutes))
    fitted = run(folder / "fit", options, shape, recipe="fit", steps=steps, **goal)
    random = run(folder / "random", options, shape, recipe="logits", init="random", steps=most, **goal)
    return {
        "teacher": teacher.stem,
        "student": shape,
        "params": cost(parse_student(shape, scale=look["scale"])).params,
        "bicubic": fitted["bicubic_teacher"],
        "solved": fitted["untrained"],
        "solved_seconds": fitted["fit_seconds"],
        "fit": fitted["psnr_teacher"],
        "fit_steps": steps,
        "fit_whole": fitted["fit_seconds"] + steps * fitted["step_seconds"],
        "random": random["psnr_teacher"],
        "random_steps": most,
        "random_whole": most * random["step_seconds"],
        "over_bicubic": fitted["psnr_teacher"] - fitted["bicubic_teacher"],
        "over_random": fitted["psnr_teacher"] - random["psnr_teacher"],
    }


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
    lines: list[str] = []
    steps: dict[int, float] = {}
    fit: list[float] = []

    def progress(title: str, done: int, total: int) -> None:
        if title == "training":
            steps.setdefault(done, time.process_time())
        elif title.startswith("fit"):
            fit.append(time.process_time())

    began = time.monotonic()
    report = srkd.compress(
        options.teacher, student=shape, data=options.photos, val=[options.val], out=folder, cache_size=0,
        announce=lines.append, progress=progress, **words,
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
        "fit_seconds": fit[-1] - fit[0] if fit else 0.0,
        "curve": curve,
        "scale": srkd.load(folder).descriptor.scale,
    }
    kept.write_text(json.dumps(facts))
    return facts


if __name__ == "__main__":
    sys.exit(main())
