"""A frame rate planned and met: `python -m benchmarks frame_rate --data SETS --train PHOTOS [--fps 30]`.

`srkd compress --target-fps` chooses the student on this machine, builds it and polishes it (`--recipe fit`); then the
same student is distilled for --minutes (`--recipe logits`, as many steps as that takes). A student of another kind than
its teacher, such as a Compact under an EDSR, cannot be solved for and starts from random weights. Both files are timed
in the runtime of the target, and scored on Set5 in float, beside bicubic.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import srkd
from benchmarks.equal_budget import FIRST_SEED, facts_of
from benchmarks.evidence import Benchmark, Column, Row, Table, add_variant_option, save
from compressor.base.context import Context
from srkd.options.parameters import read_size
from srkd.options.verbs import CompressOptions
from srkd.record.result import CompressReport, TargetReport
from srkd.runs.targeted import check_target

BENCHMARK = Benchmark(
    "Can a frame rate be planned and met, and how good is the student?",
    minutes=15,
    arguments=("--data", "{sets}", "--train", "{photos}"),
    small=(
        *("--data", "{sets}", "--fps", "100", "--lr-size", "64x48", "--minutes", "0.05"),
        *("--out", "runs/small/frame-rate"),
    ),
)

PILOT_STEPS = (50, 250)
"""Steps of two pilot runs; the difference of their times gives the pace, as both have the same start-up time."""
SETTINGS = ("schedule.batch=4", "schedule.lr_patch=24", "schedule.decay=cosine")
STARTS = {"fit": "solved for", "inherit": "from a slice", "random": "from random weights"}
COLUMNS = (
    Column("what", ""),
    Column("student", "student"),
    Column("ms", "ms", ".1f"),
    Column("fps", "frames a second", ".1f"),
    Column("met", "met"),
    Column("megabytes", "MB", ".2f"),
    Column("psnr_y", "Set5, dB", ".3f"),
    Column("seconds", "s", ".0f"),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with Set5")
    parser.add_argument("--train", type=Path, help="photographs; none: the embedded ones")
    parser.add_argument("--fps", type=float, default=30.0)
    parser.add_argument("--runtime", default="onnxruntime")
    parser.add_argument("--precision", default="int8")
    parser.add_argument("--lr-size", type=read_size, default=(320, 180))
    parser.add_argument("--threads", type=int, help="none: as many as torch uses")
    parser.add_argument("--minutes", type=float, default=5.0, help="of the distillation")
    parser.add_argument("--out", type=Path, default=Path("runs/frame-rate"))
    add_variant_option(parser)
    options = parser.parse_args()
    width, height = options.lr_size
    fitted = srkd.compress(
        recipe="fit",
        data=options.train,
        target_fps=options.fps,
        runtime=options.runtime,
        precision=options.precision,
        lr_size=options.lr_size,
        threads=options.threads,
        seed=FIRST_SEED,
        out=options.out / "fit",
        announce=_say,
    )
    target = fitted.target
    assert target is not None
    plan = facts_of(fitted.run)["plan"]
    start = STARTS[facts_of(fitted.run)["start"]["init"]]
    scores = _on_set5(fitted.run, options.data)
    rows: list[Row] = [
        {"what": "bicubic", "psnr_y": scores["bicubic"]},
        row_of(f"planned, {start}, {fitted.steps:,} steps of polish", fitted, target, plan, scores[fitted.run.name]),
        distilled(plan, start, options),
    ]
    caption = f"Target: {target.target} at {target.where}; {width}x{height} in, {4 * width}x{4 * height} out."
    save("frame_rate", Table(COLUMNS, rows, caption), seeds=(FIRST_SEED,), variant=options.variant)
    return 0


def row_of(what: str, report: CompressReport, target: TargetReport, plan: Mapping[str, Any], psnr_y: float) -> Row:
    return {
        "what": what,
        "student": plan["chosen"]["student"],
        "ms": target.ms,
        "fps": target.fps,
        "met": target.met,
        "megabytes": target.megabytes,
        "psnr_y": psnr_y,
        "seconds": report.seconds,
    }


def distilled(plan: Mapping[str, Any], start: str, options: argparse.Namespace) -> Row:
    """Return the row of the student after --minutes of distillation."""

    def run(name: str, steps: int) -> CompressReport:
        return srkd.compress(
            recipe="logits",
            data=options.train,
            student=plan["chosen"]["student"],
            steps=steps,
            settings=SETTINGS,
            threads=options.threads,
            seed=FIRST_SEED,
            out=options.out / name,
            announce=_say,
        )

    few, more = (run(f"pilot-{steps}", steps).seconds for steps in PILOT_STEPS)
    pace = max((more - few) / (PILOT_STEPS[1] - PILOT_STEPS[0]), 1e-4)
    report = run("distilled", max(PILOT_STEPS[0], round(60 * options.minutes / pace)))
    target = check_target(report.student_path, CompressOptions(target_fps=options.fps, plan=plan), Context())
    psnr_y = _on_set5(report.run, options.data)[report.run.name]
    return row_of(f"the same shape, {start}, {report.steps:,} steps of logits", report, target, plan, psnr_y)


def _on_set5(run: Path, data: Path) -> Mapping[str, float]:
    """Return the Y-PSNR of bicubic and of the run's student."""
    scores = srkd.evaluate([run], data=data / "Set5").models
    return {model: sets["Set5"].psnr_y for model, sets in scores.items()}


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
