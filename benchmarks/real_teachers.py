"""Students of networks that people have: `python -m benchmarks real_teachers --checkpoints DIR --data SETS --photos P`.

Each teacher gets students of several kinds for a minute, and some of them for ten, of one thread's processor time,
validation apart; on a busy machine a step takes more of it. Teachers trained for looks: a degraded input, `fit` for the
minute and `perceptual` for the ten. Teachers trained for PSNR: bicubic input, `fit` and `logits`. A control of the same
shape and time learns the originals without a teacher (`scratch`). Students, control, bicubic and Lanczos are compared
with the teacher's images of a set, and with the originals where the teacher is for these.

Finished runs are kept in --out, and so is every score: the command can be stopped and repeated, and --only makes the
rows of some teachers.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import srkd
from benchmarks.evidence import Benchmark, Cell, Column, Row, Table, save
from benchmarks.fit_across import AT_THE_END, WARM_UP, run
from compressor.base.files import atomic_path
from compressor.base.machine import machine_facts
from compressor.inference.metric_table import METRICS
from compressor.models.networks.cost import cost
from compressor.models.students.students import parse_student

BENCHMARK = Benchmark(
    "What does srkd make of the networks that people have, in a minute and in ten?",
    minutes=250,
    arguments=("--checkpoints", "{checkpoints}", "--data", "{sets}", "--photos", "{photos}"),
    small=(
        *("--checkpoints", "{checkpoints}", "--data", "{sets}", "--photos", "{photos}"),
        *("--only", "spanx2_ch48", "--minutes", "0.02", "--students", "compact:width=8,depth=1"),
        *("--set", "Set5", "--out", "runs/small/real-teachers"),
    ),
)

DEGRADATION = "realesrgan"
STUDENTS = ("compact:width=24,depth=8", "plain-s", "span-s")
MINUTES = (1.0, 10.0)
A_MINUTE = ("plain-s", "span-s")
"""Students that get the shortest time only; the first one and the teacher's own kind get all."""
LOOKS, PSNR = ("psnr", "gradient", "sharpness", "spectrum"), ("psnr",)


@dataclass(frozen=True)
class Published:
    """A file of the checkpoints: its scale, its network in words, a student of its own kind, and its purpose."""

    file: str
    scale: int
    network: str
    own: str | None
    for_looks: bool

    @property
    def name(self) -> str:
        return self.file.rpartition(".")[0]


TEACHERS = (
    Published("realesrgan-x4plus-anime.param", 4, "ESRGAN, 6 blocks", "rrdbnet:width=16,depth=2,growth=8", True),
    Published("realesr-general-x4v3.param", 4, "Compact 64x32", "compact:width=32,depth=16", True),
    Published("realesr-animevideov3_rezipped.pth", 4, "Compact 64x16", "compact:width=32,depth=16", True),
    Published("spanx4_ch48.param", 4, "SPAN 48", "span:width=24", False),
    Published("spanx2_ch48.param", 2, "SPAN 48", "span:width=24", False),
    Published("carn_m.pth", 4, "CARN-M", "carn_m:width=32,groups=4", False),
    Published("DCTLSA_x4.pt", 4, "DCTLSA", None, False),
)

COLUMNS = (
    Column("student", "student"),
    Column("params", "parameters", ",d"),
    Column("gmac", "GMAC for 320x180", ".2f"),
    Column("recipe", "recipe"),
    Column("minutes", "minutes", "g"),
    Column("steps", "steps", ",d"),
    Column("psnr", "to the teacher, dB", ".2f"),
    Column("sharpness", "sharpness", ".2f"),
    Column("spectrum", "spectrum, dB", ".2f"),
    Column("original", "to the original, dB", ".2f"),
    Column("over_control", "nearer to the teacher than the control, dB", "+.2f"),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoints", type=Path, required=True, help="folder of the published files")
    parser.add_argument("--data", type=Path, required=True, help="folder with the set, and with Set5 for validation")
    parser.add_argument("--set", default="Set14", help="images that are compared")
    parser.add_argument("--photos", type=Path, required=True, help="folder of HR photos to train on")
    parser.add_argument("--only", default="", help="teachers, separated by commas")
    parser.add_argument("--students", help="separated by semicolons; none: three kinds and the teacher's own")
    parser.add_argument("--minutes", default=",".join(f"{minutes:g}" for minutes in MINUTES))
    parser.add_argument("--out", type=Path, default=Path("runs/real-teachers"), help="folder of the runs")
    options = parser.parse_args()
    options.val = options.data / "Set5"
    only = set(filter(None, options.only.split(",")))
    minutes = [float(text) for text in options.minutes.split(",")]
    tables: dict[str, Table] = {}
    for teacher in TEACHERS:
        if only and teacher.name not in only:
            continue
        tables[teacher.name] = Table(COLUMNS, list(rows_of(teacher, minutes, options)), caption_of(teacher, options))
    save("real_teachers", tables, seeds=(0,))
    return 0


def caption_of(teacher: Published, options: argparse.Namespace) -> str:
    of_inputs = f"degraded inputs ({DEGRADATION})" if teacher.for_looks else "bicubic inputs"
    return (
        f"{teacher.network}, x{teacher.scale} ({teacher.name}), on {of_inputs}; images of {options.set}, trained on "
        f"{options.photos.name}, minutes of one thread's processor time, one seed; {machine_facts()['cpu']}."
    )


def rows_of(teacher: Published, minutes: list[float], options: argparse.Namespace) -> Iterator[Row]:
    """Yield bicubic and Lanczos, then for each student its rows by minutes and its control."""
    folder = options.out / teacher.name
    students = options.students.split(";") if options.students else [*STUDENTS, *filter(None, [teacher.own])]
    trained: dict[str, dict[str, Cell]] = {}
    controls: dict[str, str] = {}
    for student in students:
        safe = student.replace(":", "-").replace(",", "-")
        lengths = [min(minutes)] if student in A_MINUTE else minutes
        longest = max(lengths)
        for length in lengths:
            short = length == min(minutes)
            recipe = "fit" if short else "perceptual" if teacher.for_looks else "logits"
            trained[f"{safe}-{length:g}"] = learn(teacher, student, recipe, length, folder / safe, options)
        # A control knows no teacher: it serves all teachers of the scale and the inputs.
        kind = f"x{teacher.scale}-{'degraded' if teacher.for_looks else 'bicubic'}"
        control = learn(teacher, student, "scratch", longest, options.out / "controls" / f"{kind}-{safe}", options)
        trained[f"{safe}-control"] = {**control, "student": student, "recipe": "control"}
        controls |= {f"{safe}-{length:g}": f"{safe}-control" for length in lengths}
    scores = scored(teacher, {name: Path(str(row["run"])) for name, row in trained.items()}, options)
    for name in ("bicubic", "lanczos"):
        yield {"student": {"bicubic": "bicubic", "lanczos": "Lanczos"}[name], **scores[name]}
    for name, row in trained.items():
        student = parse_student(str(row["student"]), scale=teacher.scale)
        count = cost(student, (320, 180))
        nearer = scores[name]["psnr"] - scores[controls[name]]["psnr"] if name in controls else None
        shown = {key: value for key, value in row.items() if key != "run"}
        yield {**shown, "params": count.params, "gmac": count.macs / 1e9, **scores[name], "over_control": nearer}


def learn(
    teacher: Published, student: str, recipe: str, minutes: float, folder: Path, options: argparse.Namespace
) -> dict[str, Cell]:
    """Train a student for so many minutes, or read the finished run; return what is known of it."""
    folder.mkdir(parents=True, exist_ok=True)
    words: dict[str, Any] = {"batch": 8, "lr_patch": 32, "settings": AT_THE_END, "goal": "teacher"}
    words |= {"degrade": DEGRADATION} if teacher.for_looks else {}
    options.teacher = None if recipe == "scratch" else options.checkpoints / teacher.file
    if recipe == "scratch":
        words |= {"goal": "original"}
        student = f"{student},scale={teacher.scale}" if ":" in student else f"{student}:scale={teacher.scale}"
    look = run(folder / f"{recipe}-look", options, student, recipe=recipe, steps=WARM_UP, **words)
    steps = max(1, round((60 * minutes - look["fit_seconds"]) / look["step_seconds"]))
    place = folder / f"{recipe}-{minutes:g}"
    result = run(place, options, student, recipe=recipe, steps=steps, **words)
    print(f"{place}: {steps} steps, {result['psnr_teacher']} dB to the teacher", file=sys.stderr, flush=True)
    return {"student": student, "run": str(place), "recipe": f"`{recipe}`", "minutes": minutes, "steps": steps}


def scored(teacher: Published, runs: Mapping[str, Path], options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Return the figures to the teacher and to the originals by row; what an earlier call has measured is read."""
    file = options.out / teacher.name / f"scores-{options.set}.json"
    scores: dict[str, dict[str, float]] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    missing = {name: run for name, run in runs.items() if name not in scores}
    if missing:
        measures = LOOKS if teacher.for_looks else PSNR
        result = srkd.evaluate(
            list(missing.values()),
            against=options.checkpoints / teacher.file,
            data=options.data / options.set,
            degrade=DEGRADATION if teacher.for_looks else "none",
            metrics=measures,
        )
        labels = [label for label in result.models if label != result.teacher]
        for label, name in zip(labels, ["bicubic", "lanczos", *missing], strict=True):
            figures = result.models[label][options.set]
            scores[name] = {measure: float(figures[METRICS[measure].key_to("teacher")]) for measure in measures}
            if not teacher.for_looks:
                scores[name]["original"] = float(figures[METRICS["psnr"].key_to("original")])
        with atomic_path(file) as temporary:
            temporary.write_text(json.dumps(scores, indent=1), encoding="utf-8")
    return scores


if __name__ == "__main__":
    sys.exit(main())
