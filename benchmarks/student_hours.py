"""What does more time bring? `python -m benchmarks student_hours --checkpoints DIR --data SETS --images IMAGES`.

A student of `srkd students` is trained by its own command, but with fewer steps: seconds, ten minutes, an hour, and all
of them; from the solved start and from a random one. Each run has the whole schedule: its rate falls to zero.
IMAGES is the folder that `python -m benchmarks.student_images` makes. Finished runs are kept in --out; others go on
where they stopped.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch

import srkd
from benchmarks.evidence import Benchmark, Cell, Column, Table, save
from benchmarks.kept_runs import figures_of
from benchmarks.students import ALL, FIRST, begin_or_resume, commands_of
from compressor.base.machine import machine_facts
from compressor.models.checkpoints.header import RUN_FOLDER_FACTS, RUN_FOLDER_WEIGHTS
from compressor.models.students.students import parse_student

BENCHMARK = Benchmark(
    "What does more time bring a student, with and without the solved start?",
    minutes=600,
    arguments=("--checkpoints", "{checkpoints}", "--data", "{sets}", "--images", "runs/images"),
    small=(
        *("--checkpoints", "{checkpoints}", "--data", "{sets}", "--images", "runs/images", "--shares", "0.0002"),
        *("--out", "runs/small/student-hours"),
    ),
)
SHARES = (1 / 400, 1 / 12, 1 / 2, 1.0)
"""Parts of the student's steps."""
MEASURES = ("psnr", "sharpness", "spectrum", "overshoot")
COLUMNS = (
    Column("start", "start"),
    Column("steps", "steps", ",d"),
    Column("minutes", "minutes", ".1f"),
    Column("strength", "strength"),
    Column("psnr", "to the teacher, dB", ".2f"),
    Column("sharpness", "sharpness", ".3f"),
    Column("spectrum", "spectrum, dB", ".2f"),
    Column("overshoot", "overshoot", ".3f"),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoints", type=Path, required=True, help="folder of the published files")
    parser.add_argument("--data", type=Path, required=True, help="folder with Set14")
    parser.add_argument("--images", type=Path, required=True, help="folder with photos/ and drawings/")
    parser.add_argument("--name", default=FIRST, help="the student")
    parser.add_argument("--shares", default=",".join(map(str, SHARES)), help="parts of its steps")
    parser.add_argument("--out", type=Path, default=Path("runs/student-hours"), help="folder of the runs")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for share in map(float, options.shares.split(",")):
        for start in ("fit", "random"):
            rows.append(row_of(run_of(share, start, options), start, options))
            about = (
                f"{options.name} by its own command with fewer steps, measured on Set14, degraded "
                f"({ALL[options.name].degrade}); one thread of {machine_facts()['cpu']}, beside other work; labels of "
                "the teacher are not counted."
            )
            save("student_hours", {"hours": Table(COLUMNS, rows, about)}, seeds=(10,))
    return 0


def run_of(share: float, start: str, options: argparse.Namespace) -> Path:
    """Train a run, or go on with it, unless it is finished."""
    student = ALL[options.name]
    folder: Path = options.out / f"{options.name}-{share:g}-{start}"
    if (folder / RUN_FOLDER_WEIGHTS).is_file():
        return folder
    (_, words), *_ = commands_of(student, options.checkpoints, options.images, folder).items()
    steps = max(4, round(share * (student.earlier_steps or student.steps)))
    if begin_or_resume([*words, "--steps", str(steps), "--init", start, "--out", str(folder)], folder):
        sys.exit(f"{folder} was not finished")
    return folder


def row_of(run: Path, start: str, options: argparse.Namespace) -> dict[str, Cell]:
    """Return the figures of a run to its teacher's images."""
    student = ALL[options.name]
    facts = json.loads((run / RUN_FOLDER_FACTS).read_bytes())["result"]
    scored = srkd.evaluate(
        run,
        against=options.checkpoints / student.teacher,
        data=options.data / "Set14",
        scale=parse_student(student.student).scale,
        degrade=student.degrade,
        metrics=MEASURES,
        threads=1,
    )
    *_, figures = figures_of(scored, MEASURES, to="teacher")
    first = {"start": "solved for" if start == "fit" else "random", "steps": facts["steps"]}
    return {**first, "minutes": facts["seconds"] / 60, "strength": facts["strength"], **figures}


if __name__ == "__main__":
    sys.exit(main())
