"""A frame rate planned, and met in eight bits: `python -m benchmarks frame_rate --data SETS --photos PHOTOS`.

`srkd compress --target-fps` chooses the student on this machine, solves for it and trains it with logits.
The file that meets the target is scored beside the float student. A plan wants a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import srkd
from benchmarks.equal_budget import facts_of
from benchmarks.evidence import Benchmark, Cell, Column, Row, Table, save
from compressor.base.machine import machine_facts

BENCHMARK = Benchmark(
    "Can a frame rate be planned and met in eight bits, and how good is the student after minutes of training?",
    minutes=8,
    arguments=("--data", "{sets}", "--photos", "{photos}"),
    small=(
        "--data", "{sets}", "--photos", "{photos}", "--fps", "100", "--lr-size", "64x48", "--steps", "20",
        "--out", "runs/small/frame-rate",
    ),
)  # fmt: skip

SETTINGS = ("schedule.batch=8", "schedule.lr_patch=32")
COLUMNS = (
    Column("what", ""),
    Column("student", "student"),
    Column("ms", "ms", ".1f"),
    Column("fps", "frames a second", ".1f"),
    Column("met", "met"),
    Column("megabytes", "MB", ".2f"),
    Column("float", "Set5 in float, dB", ".3f"),
    Column("eight_bits", "Set5 in eight bits, dB", ".3f"),
    Column("training", "s of training", ".0f"),
    Column("seconds", "s in all", ".0f"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with Set5")
    parser.add_argument("--photos", type=Path, required=True, help="folder of HR photos to train on")
    parser.add_argument("--fps", type=float, default=30.0)
    parser.add_argument("--lr-size", default="320x180")
    parser.add_argument("--steps", type=int, default=4500, help="steps of training: minutes")
    parser.add_argument("--out", type=Path, default=Path("runs/frame-rate"), help="folder of the runs")
    options = parser.parse_args()
    width, height = map(int, options.lr_size.split("x"))
    began = time.monotonic()
    report = srkd.compress(
        recipe="logits", target_fps=options.fps, precision="int8", lr_size=(width, height), steps=options.steps,
        data=options.photos, val=[options.data / "Set5"], settings=SETTINGS, cache_size=0, out=options.out,
        announce=lambda line: print(line, file=sys.stderr, flush=True),
    )  # fmt: skip
    target = report.target
    assert target is not None and report.untrained is not None
    in_eight_bits = {} if target.file is None else srkd.evaluate([target.file], data=options.data / "Set5").models
    student: dict[str, Cell] = {"student": facts_of(report.run)["plan"]["chosen"]["student"]}
    rows: list[Row] = [
        {"what": "bicubic", "float": report.bicubic.psnr_y},
        {"what": "the planned student, solved for", **student, "float": report.untrained.student},
        {
            "what": f"after {report.steps:,} steps of logits" + (f" ({target.reason})" if target.reason else ""),
            **student,
            "ms": target.ms,
            "fps": target.fps,
            "met": target.met,
            "megabytes": target.megabytes,
            "float": report.student.psnr_y,
            "eight_bits": next(
                (sets["Set5"].psnr_y for name, sets in in_eight_bits.items() if name != "bicubic"), None
            ),
            "training": report.seconds,
            "seconds": time.monotonic() - began,
        },
    ]
    machine = machine_facts()
    caption = (
        f"Target: {target.target}, {width}x{height} in, four times the size out, "
        f"{machine['torch_threads']} threads of {machine['cpu']}. Teacher: the embedded EDSR 16/48."
    )
    save("frame_rate", Table(COLUMNS, rows, caption), seeds=(0,))
