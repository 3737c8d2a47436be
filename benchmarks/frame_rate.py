"""A frame rate planned, and met in eight bits: `python -m benchmarks frame_rate --data SETS --photos PHOTOS`.

`srkd compress --target-fps` chooses the student on this machine, solves for it and trains it with logits for --minutes.
The file that meets the target is scored beside the float student. A plan wants a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import srkd
from benchmarks.equal_budget import facts_of
from benchmarks.evidence import Benchmark, Cell, Column, Row, Table, save
from compressor.base.machine import machine_facts
from srkd.record.result import CompressReport

BENCHMARK = Benchmark(
    "Can a frame rate be planned and met in eight bits, and how good is the student after minutes of training?",
    minutes=15,
    arguments=("--data", "{sets}", "--photos", "{photos}"),
    small=(
        "--data", "{sets}", "--photos", "{photos}", "--fps", "100", "--lr-size", "64x48", "--minutes", "0.02",
        "--out", "runs/small/frame-rate",
    ),
)  # fmt: skip

SETTINGS = ("schedule.batch=8", "schedule.lr_patch=32")
PILOT_STEPS = 40
"""Steps by which the time of a step is measured."""
COLUMNS = (
    Column("what", ""),
    Column("student", "student"),
    Column("steps", "steps", ",d"),
    Column("ms", "ms", ".1f"),
    Column("fps", "frames a second", ".1f"),
    Column("met", "met"),
    Column("megabytes", "MB", ".2f"),
    Column("float", "Set5 in float, dB", ".3f"),
    Column("eight_bits", "Set5 in eight bits, dB", ".3f"),
    Column("seconds", "s in all", ".0f"),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with Set5")
    parser.add_argument("--photos", type=Path, required=True, help="folder of HR photos to train on")
    parser.add_argument("--fps", type=float, default=30.0)
    parser.add_argument("--lr-size", default="320x180")
    parser.add_argument("--minutes", type=float, default=10.0, help="minutes of training")
    parser.add_argument("--out", type=Path, default=Path("runs/frame-rate"), help="folder of the runs")
    options = parser.parse_args()
    width, height = map(int, options.lr_size.split("x"))
    target = {"target_fps": options.fps, "precision": "int8", "lr_size": (width, height)}
    first, first_row = run("planned and solved for", options, steps=PILOT_STEPS, **target)
    student = facts_of(first.run)["plan"]["chosen"]["student"]
    steps = max(PILOT_STEPS, round(60 * options.minutes / first.seconds * PILOT_STEPS))
    _, last_row = run(f"after {options.minutes:g} minutes", options, steps=steps, student=student, **target)
    scores = srkd.evaluate([first.run], data=options.data / "Set5").models
    rows: list[Row] = [{"what": "bicubic", "float": scores["bicubic"]["Set5"].psnr_y}, first_row, last_row]
    machine = machine_facts()
    caption = (
        f"Target: {first.target.target if first.target else ''}, {width}x{height} in, four times the size out, "
        f"{machine['torch_threads']} threads of {machine['cpu']}. Teacher: the embedded EDSR 16/48."
    )
    save("frame_rate", Table(COLUMNS, rows, caption), seeds=(0,))
    return 0


def run(what: str, options: argparse.Namespace, **words: Any) -> tuple[CompressReport, Row]:
    """Train a student for the target; return the report and the row."""
    began = time.monotonic()
    report = srkd.compress(
        recipe="logits", data=options.photos, val=[options.data / "Set5"], settings=SETTINGS, cache_size=0,
        out=options.out / what.replace(" ", "-"), announce=say, **words,
    )  # fmt: skip
    target = report.target
    assert target is not None
    in_eight_bits = {} if target.file is None else srkd.evaluate([target.file], data=options.data / "Set5").models
    row: dict[str, Cell] = {
        "what": what if target.reason is None else f"{what} ({target.reason})",
        "student": facts_of(report.run)["plan"]["chosen"]["student"],
        "steps": report.steps,
        "ms": target.ms,
        "fps": target.fps,
        "met": target.met,
        "megabytes": target.megabytes,
        "float": report.student.psnr_y,
        "eight_bits": next((sets["Set5"].psnr_y for name, sets in in_eight_bits.items() if name != "bicubic"), None),
        "seconds": time.monotonic() - began,
    }
    return report, row


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
