"""Another scale, and a strength: `python -m benchmarks strength --checkpoints DIR --data SETS --photos P`.

Four teachers of x4 that people have, each with a Compact 32x8 of x2 and of x4: ten minutes of one thread by the recipe
`perceptual`. Teachers trained for looks: degraded inputs; the ESRGAN, whose step takes a second, runs once on some of
the photos, within the ten minutes. Each student is compared with the teacher's images of a set, degraded and clean, at
five strengths and at the one that its run chose, beside bicubic and Lanczos.

Students of x2 stand beside a control, which learns the originals without a teacher for the same ten minutes, and their
starts beside each other: solved for and random, a minute of `logits` each.

docs/results/strength-NAME.webp shows twelve crops, chosen by number alone: bicubic, the student, its teacher. Finished
runs are kept in --out: the command can be stopped and repeated. --only measures some teachers.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import torch

import srkd
from benchmarks.crops import by_number, draw_crops
from benchmarks.evidence import Benchmark, Cell, Column, Row, Table, results_folder, save
from benchmarks.kept_runs import AT_THE_END, figures_of
from benchmarks.real_teachers import DEGRADATION, TEACHERS, Published, keeps, some_photos, tables_before
from compressor.base.errors import UsageError
from compressor.base.machine import machine_facts
from compressor.degradation.chain import read_degradation
from compressor.inference.open import open_model
from compressor.inference.super_resolve import Enlargement
from compressor.runtimes.table import OpenOptions

BENCHMARK = Benchmark(
    "What do students of another scale and of a chosen strength look like after ten minutes?",
    minutes=70,
    arguments=("--checkpoints", "{checkpoints}", "--data", "{sets}", "--photos", "{photos}"),
    small=(
        *("--checkpoints", "{checkpoints}", "--data", "{sets}", "--photos", "{photos}"),
        *("--only", "realesr-general-x4v3", "--minutes", "0.5", "--set", "Set5", "--out", "runs/small/strength"),
    ),
)

CLEAN = ",clean=0.25"
"""Behind a degradation: a quarter of the images stays clean."""
OF = ("realesr-general-x4v3", "realesr-animevideov3_rezipped", "spanx4_ch48", "realesrgan-x4plus-anime")
KEPT = 24
"""Photos of which the images of a slow teacher are kept: more would take most of the ten minutes."""
STUDENT = "compact:width=32,depth=8"
SCALES = (2, 4)
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
LOOKS = ("psnr", "sharpness", "spectrum", "overshoot")

COLUMNS = (
    Column("images", "images"),
    Column("psnr", "to the teacher, dB", ".2f"),
    Column("sharpness", "sharpness", ".3f"),
    Column("spectrum", "spectrum, dB", ".2f"),
    Column("overshoot", "overshoot", ".3f"),
    Column("clean_sharpness", "sharpness, clean", ".3f"),
    Column("clean_overshoot", "overshoot, clean", ".3f"),
)
SCALE_COLUMNS = (
    Column("teacher", "teacher, reduced to x2"),
    Column("student", "student, dB", ".2f"),
    Column("control", "without a teacher, dB", ".2f"),
    Column("lanczos", "Lanczos, dB", ".2f"),
    Column("bicubic", "bicubic, dB", ".2f"),
    Column("solved", "solved start, a minute, dB", ".2f"),
    Column("random", "random start, a minute, dB", ".2f"),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoints", type=Path, required=True, help="folder of the published files")
    parser.add_argument("--data", type=Path, required=True, help="folder with the set, and with Set5 for validation")
    parser.add_argument("--set", default="Set14", help="images that are compared")
    parser.add_argument("--photos", type=Path, required=True, help="folder of HR photos to train on")
    parser.add_argument("--only", default="", help="teachers, separated by commas")
    parser.add_argument("--minutes", type=float, default=10.0, help="of the students; their starts get a tenth")
    parser.add_argument("--runs-only", action="store_true", help="train, and measure nothing")
    parser.add_argument("--scales", default="2,4", help="scales of the students")
    parser.add_argument("--out", type=Path, default=Path("runs/strength"), help="folder of the runs")
    options = parser.parse_args()
    torch.set_num_threads(1)
    tables, only = tables_before("strength"), set(filter(None, options.only.split(",")))
    scales = list(map(int, options.scales.split(",")))
    compared = {str(row["teacher"]): row for row in tables["scale"].rows} if "scale" in tables else {}
    for teacher in (replace(one, kept=one.kept and KEPT) for one in TEACHERS if one.name in (only or OF)):
        for scale in scales:
            run = train(teacher, f"perceptual-x{scale}", options, scale=scale, recipe="perceptual")
            others = starts(teacher, options) if scale == 2 else {}
            if options.runs_only:
                continue
            rows = list(rows_of(teacher, scale, run, options))
            tables[f"{teacher.name}-x{scale}"] = Table(COLUMNS, rows, caption_of(teacher, scale, run, options))
            if teacher.for_looks:
                draw(teacher, scale, run, options)
            if scale == 2:
                compared[teacher.name] = against_control(teacher, run, others, rows, options)
                about = f"Y-PSNR to the teacher's reduced images of {options.set}; {said(options)}."
                tables["scale"] = Table(SCALE_COLUMNS, [compared[name] for name in OF if name in compared], about)
            save("strength", tables, seeds=(10,), parts=("--only", "--scales"))
    return 0


def said(options: argparse.Namespace) -> str:
    return (
        f"{STUDENT}, trained on {options.photos.name} (of degraded ones a quarter clean), {options.minutes:g} minutes "
        f"of one thread, one seed; {machine_facts()['cpu']}, {date.today()}"
    )


def caption_of(teacher: Published, scale: int, run: Path, options: argparse.Namespace) -> str:
    inputs = f"degraded inputs ({DEGRADATION})" if teacher.for_looks else "bicubic inputs"
    reduced = f" at x{scale}" if scale != teacher.scale else ""
    return f"{teacher.network} ({teacher.name}){reduced}, {inputs} of {options.set}; {said(options)}."


def train(teacher: Published, name: str, options: argparse.Namespace, *, scale: int, recipe: str, **words: Any) -> Path:
    """Train a student for the minutes of the options, or those of the words, unless it is finished."""
    folder: Path = options.out / teacher.name / name
    if (folder / "student.safetensors").is_file():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    words |= {"degrade": DEGRADATION + CLEAN} if teacher.for_looks else {}
    photos = options.photos
    if recipe != "scratch":
        words |= {"teacher": options.checkpoints / teacher.file, "goal": "teacher"}
        if keeps(teacher, recipe):
            photos = some_photos(options.photos, teacher, options.out)
            words |= {"teacher_cache": True, "cache_size": "4GB"}
    words = {"minutes": options.minutes, **words}
    print(f"{folder}", file=sys.stderr, flush=True)
    srkd.compress(
        student=f"{STUDENT},scale={scale}", recipe=recipe, data=photos, val=[options.data / "Set5"], out=folder,
        batch=8, lr_patch=32, threads=1, settings=AT_THE_END, announce=lambda line: None,
        progress=lambda *_: None, **words,
    )  # fmt: skip
    return folder


def starts(teacher: Published, options: argparse.Namespace) -> dict[str, Path]:
    """Return the control, which knows no teacher and serves all with its inputs, and students of both starts."""
    kind = "degraded" if teacher.for_looks else "bicubic"
    control = replace(teacher, file=f"controls-{kind}.none", kept=None)
    quick = replace(teacher, kept=None)  # in a minute there is no time to keep images
    short = {"minutes": options.minutes / 10, "recipe": "logits", "scale": 2}
    trained = {"control": train(control, "scratch-x2", options, scale=2, recipe="scratch", goal="original")}
    for name, init in (("solved", "fit"), ("random", "random")):
        with suppress(UsageError):  # under a slow teacher a minute is over before the first step
            trained[name] = train(quick, f"{name}-x2", options, init=init, **short)
    return trained


def rows_of(teacher: Published, scale: int, run: Path, options: argparse.Namespace) -> Iterator[dict[str, Cell]]:
    """Yield bicubic and Lanczos, the strengths, and the student that the run chose."""
    chosen = json.loads((run / "run.json").read_text(encoding="utf-8"))["result"]["strength"]
    models = [blended(run, strength) for strength in STRENGTHS]
    degraded = scored(teacher, scale, [*models, run], options, DEGRADATION if teacher.for_looks else "none")
    clean = scored(teacher, scale, [*models, run], options, "none") if teacher.for_looks else degraded
    names = ["bicubic", "Lanczos", *(f"strength {each:g}" for each in STRENGTHS), f"the student: {chosen:g}"]
    for name, own, on_clean in zip(names, degraded, clean, strict=True):
        of_clean = {f"clean_{key}": on_clean[key] for key in ("sharpness", "overshoot")} if teacher.for_looks else {}
        yield {"images": name, **own, **of_clean}


def blended(run: Path, strength: float) -> Path:
    """Return the file of a strength."""
    file = run / f"strength-{strength:g}.safetensors"
    if not file.is_file():
        ends = run / "faithful.safetensors", run / "textured.safetensors"
        srkd.save(srkd.blend(*ends, strength), file)
    return file


def scored(
    teacher: Published, scale: int, models: Sequence[Path], options: argparse.Namespace, degrade: str
) -> list[dict[str, float]]:
    """Return the figures to the teacher of bicubic, Lanczos and the models."""
    against, data = options.checkpoints / teacher.file, options.data / options.set
    result = srkd.evaluate(
        [str(model) for model in models],
        against=against,
        data=data,
        scale=scale,
        degrade=degrade,
        metrics=LOOKS,
        threads=1,
    )
    return figures_of(result, LOOKS, to="teacher")


def against_control(
    teacher: Published, run: Path, others: Mapping[str, Path], rows: Sequence[Row], options: argparse.Namespace
) -> Row:
    """Return how near the student of x2 is, beside those that it has to beat."""
    inputs = DEGRADATION if teacher.for_looks else "none"
    figures = scored(teacher, 2, [run, *others.values()], options, inputs)
    names = ("bicubic", "lanczos", "student", *others)
    return {"teacher": teacher.name, **{name: own["psnr"] for name, own in zip(names, figures, strict=True)}}


def draw(teacher: Published, scale: int, run: Path, options: argparse.Namespace) -> None:
    """Draw twelve crops in two columns, each by bicubic, the student and the teacher from left to right."""
    networks = [
        Enlargement(scale),
        open_model(run),
        open_model(options.checkpoints / teacher.file, OpenOptions(scale=scale)),
    ]
    degradation = read_degradation(DEGRADATION) if teacher.for_looks else None
    places = list(by_number(options.data / options.set / "HR"))
    draw_crops(networks, places, scale, degradation, results_folder() / f"strength-{teacher.name}-x{scale}.webp")


if __name__ == "__main__":
    sys.exit(main())
