"""Students of a teacher trained for looks: `python -m benchmarks looks --teacher TEACHER --data SETS --photos PHOTOS`.

The teacher's images are learnt pixel by pixel (`logits`), by `perceptual`, and not at all (the control: `scratch`, the
originals alone), from the same photos and, but for `scratch`, from the same fit. Each has steps that take it about as
long as the others. Images of a set apart are compared with the teacher's. OUT/report.html shows the input enlarged,
teacher, perceptual student and control side by side, under a slider. Every finished run is kept: the command can be
repeated.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import srkd
from benchmarks.evidence import Benchmark, Cell, Column, Row, Table, save
from compressor.assets import embedded_teacher
from compressor.base.choices import Goal
from compressor.base.machine import machine_facts
from compressor.inference.evaluate import Evaluation
from compressor.inference.metric_table import METRICS
from srkd.record.result import CompressReport
from srkd.record.run_file import find_run_file

BENCHMARK = Benchmark(
    "Does a perceptual student look like its teacher, and how near do pixels alone bring it in the same time?",
    minutes=35,
    arguments=("--teacher", "{checkpoints}/realesr-general-x4v3.param", "--data", "{sets}", "--photos", "{photos}"),
    small=(
        *("--data", "{sets}", "--photos", "{photos}", "--student", "compact:width=8,depth=2", "--set", "Set5"),
        *("--steps", "perceptual=40,logits=10,scratch=10", "--out", "runs/small/looks"),
    ),
)

STUDENT = "compact:width=32,depth=8"
STEPS = {"scratch": 2000, "logits": 2000, "perceptual": 1100}
MEASURES = ("psnr", "gradient", "sharpness", "spectrum")
COLUMNS = (
    Column("what", ""),
    Column("steps", "steps"),
    Column("seconds", "s in all", ".0f"),
    Column("psnr", "PSNR, dB", ".2f"),
    Column("gradient", "gradient PSNR, dB", ".2f"),
    Column("sharpness", "sharpness", ".3f"),
    Column("spectrum", "spectrum, dB", ".3f"),
    Column("alarms", "alarms of the guard"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", type=Path, default=embedded_teacher(), help="default: the embedded one")
    parser.add_argument("--data", type=Path, required=True, help="folder with the set, and with Set5 for validation")
    parser.add_argument("--set", default="B100", help="images that are compared")
    parser.add_argument("--photos", type=Path, required=True, help="folder of HR photos to train on")
    parser.add_argument("--student", default=STUDENT)
    parser.add_argument("--degrade", default="realesrgan")
    parser.add_argument("--label-margin", type=int, default=0, help="LR pixels that the teacher sees around a patch")
    parser.add_argument("--steps", default=",".join(f"{name}={count}" for name, count in STEPS.items()))
    parser.add_argument("--out", type=Path, default=Path("runs/looks"), help="folder of the runs")
    options = parser.parse_args()
    images, runs = options.data / options.set, dict[str, tuple[Path, int, float, int]]()
    for recipe, count in (text.split("=") for text in options.steps.split(",")):
        report = kept(options.out / recipe, int(count)) or srkd.compress(
            teacher=options.teacher, student=options.student, recipe=recipe, degrade=options.degrade, goal="teacher",
            data=options.photos, val=[options.data / "Set5"], steps=int(count), batch=8, lr_patch=32,
            label_margin=None if recipe == "scratch" else options.label_margin, out=options.out / recipe,
            announce=lambda line: print(line, file=sys.stderr, flush=True),
        )  # fmt: skip
        alarms = sum("adversarial" in line for line in report.flags)
        runs[recipe] = (report.student_path, report.steps, report.seconds, alarms)
    scored = srkd.evaluate(
        [path for path, *_ in runs.values()],
        against=options.teacher, data=images, degrade=options.degrade, metrics=MEASURES,
    )  # fmt: skip
    figures = figures_of(scored, MEASURES, to="teacher")
    trained: list[dict[str, Cell]] = [
        {
            "what": {"scratch": "control: `scratch`, the originals alone"}.get(recipe, f"`{recipe}`"),
            "steps": steps,
            "seconds": seconds,
            "alarms": alarms if recipe == "perceptual" else None,
        }
        for recipe, (_, steps, seconds, alarms) in runs.items()
    ]
    plain: list[dict[str, Cell]] = [{"what": "bicubic"}, {"what": "Lanczos"}]
    rows: list[Row] = [{**what, **row} for what, row in zip([*plain, *trained], figures, strict=True)]
    if {"perceptual", "scratch"} <= set(runs):
        page = options.out / "report.html"
        srkd.report(options.out / "perceptual", control=options.out / "scratch", data=images, out=page, speed=False)
        print(f"teacher, student and control side by side: {page}", file=sys.stderr)
    machine = machine_facts()
    caption = (
        f"{options.student} of {options.teacher.stem}, inputs degraded ({options.degrade}), to the teacher's images of "
        f"{options.set}, {machine['torch_threads']} threads of {machine['cpu']}; best: sharpness 1, spectrum 0."
    )
    save("looks", Table(COLUMNS, rows, caption), seeds=(0,))


def figures_of(scored: Evaluation, measures: Sequence[str], *, to: Goal) -> list[dict[str, float]]:
    """Return the figures of the only set: of bicubic, Lanczos and then each model in turn, without the teacher."""
    sets = [next(iter(by_set.values())) for label, by_set in scored.models.items() if label != scored.teacher]
    return [{name: float(figures[METRICS[name].key_to(to)]) for name in measures} for figures in sets]


def kept(run: Path, steps: int) -> CompressReport | None:
    """Return the result of a run of so many steps that an earlier call has finished."""
    contents = find_run_file(run)
    result = None if contents is None else contents.result
    return result if result is not None and result.steps == steps else None
