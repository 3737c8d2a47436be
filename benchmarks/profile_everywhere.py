"""A student beside its teacher in every runtime and precision, by `srkd profile`: `python -m benchmarks
profile_everywhere [--teacher SPEC] [--student SPEC]`.

Weights are random, as time does not depend on them. Every row of srkd runs in its own process and all take turns. Only
the student is also timed in eight bits, as teachers are in float. `eager torch` is the network in plain torch, in its
default layout, in turns with srkd's torch runtime. The column "over the eager teacher" is the ratio of these two
multiplied by the paired ratio of the row to the teacher in srkd's torch runtime. A speed-up that a paper states for the
two networks (`PUBLISHED`) stands beside it.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from benchmarks.evidence import Benchmark, Cell, Column, Row, Table, add_variant_option, save
from benchmarks.turns import in_turns
from compressor.base.machine import torch_threads
from compressor.inference.open import open_model
from compressor.models.checkpoints.load import load_checkpoint
from compressor.models.checkpoints.save import save_network
from compressor.models.networks.registry import build
from compressor.models.students.students import parse_student
from compressor.runtimes.table import OpenOptions
from export.profile.report import ProfileReport, profile_models
from export.profile.settings import ProfileSettings
from srkd.options.values import read_size

BENCHMARK = Benchmark(
    "How much faster is a student than its teacher, runtime by runtime?",
    minutes=20,
    small=(
        *("--teacher", "edsr:width=16,depth=2,scale=4", "--student", "edsr:width=8,depth=2,scale=4"),
        *("--lr-size", "16x16", "--seconds", "0.1", "--runtimes", "torch,onnxruntime"),
    ),
)

COLUMNS = (
    Column("runtime", "runtime"),
    Column("precision", "precision"),
    Column("teacher_ms", "teacher, ms", ".0f"),
    Column("student_ms", "student, ms", ".1f"),
    Column("ratio", "on the same runtime", ".1f"),
    Column("over_eager", "over the eager teacher", ".1f"),
    Column("published", "published"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default="edsr:width=256,depth=32,scale=4,res_scale=0.1")
    parser.add_argument("--student", default="edsr:width=64,depth=32,scale=4,res_scale=0.1")
    parser.add_argument("--lr-size", type=read_size, default=(64, 64), help="of the LR image, such as 64x64")
    parser.add_argument("--runtimes", default="torch,torch-compiled,onnxruntime,openvino")
    parser.add_argument("--precisions", default="fp32,bf16,int8")
    parser.add_argument("--seconds", type=float, default=10.0, help="for each row")
    parser.add_argument("--rounds", type=int, default=5, help="of eager torch, in turns")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, help="CPU threads; none: as many as torch uses")
    add_variant_option(parser)
    options = parser.parse_args()
    settings = ProfileSettings(
        runtimes=tuple(options.runtimes.split(",")),
        precisions=tuple(options.precisions.split(",")),
        device=options.device,
        lr_sizes=(options.lr_size,),
        threads=options.threads,
        seconds=options.seconds,
        memory=False,
        quality=False,
    )
    with tempfile.TemporaryDirectory() as folder:
        files = {name: Path(folder, f"{name}.safetensors") for name in ("teacher", "student")}
        for name, file in files.items():
            save_network(build(parse_student(getattr(options, name)), seed=0), file)
        report = profile_models([files["student"]], teacher=files["teacher"], settings=settings)
        place = OpenOptions(device=options.device, threads=report.rows[0].threads, trusted=True)
        eager, slower = eager_row(files, options.lr_size, place, options.rounds)
    published = published_speed(options.teacher, options.student)
    width, height = options.lr_size
    conditions = report.conditions[0]
    caption = (
        f"{options.teacher} to {options.student}, LR {width}x{height}, {options.device}, {report.rows[0].threads} "
        f"thread(s), median of the rounds; other programs kept {conditions.busy_cores:.2f} cores busy."
        + (f" Published: {published.source}." if published else "")
    )
    if published:
        eager = {**eager, "published": published.text}
    save("profile_everywhere", Table(COLUMNS, [eager, *rows(report, slower)], caption), variant=options.variant)
    for lost in report.lost:
        print(f"lost: {lost.model} in {lost.runtime} {lost.precision}: {lost.reason}", file=sys.stderr)


@dataclass(frozen=True)
class PublishedSpeed:
    """A speed-up that a paper states for a student, in words, and the table that has it."""

    teacher: str
    student: str
    text: str
    source: str


DUKD = "DUKD, table 1: x4, LR 256x256, NVIDIA V100"
CSD = "a summary of CSD, without size and device"
PUBLISHED = (
    PublishedSpeed(
        "edsr:width=256,depth=32,scale=4", "edsr:width=64,depth=32,scale=4", "10.5 (3.233 and 33.958 FPS)", DUKD
    ),
    PublishedSpeed("rcan:scale=4", "rcan:depth=6,scale=4", "2.0 (6.162 and 12.337 FPS)", DUKD),
    PublishedSpeed(
        "swinir:width=180,depths=6/6/6/6/6/6,heads=6/6/6/6/6/6,scale=4",
        "swinir:width=60,depths=6/6/6/6,heads=6/6/6/6,scale=4",
        "1.9 (0.459 and 0.874 FPS)",
        DUKD,
    ),
    PublishedSpeed("edsr:width=256,depth=32,scale=4", "edsr:width=128,depth=32,scale=4", "1.77", CSD),
)
"""Published speed-ups; `tests/support/published_counts.py` has the counts of the same networks."""


def published_speed(teacher: str, student: str) -> PublishedSpeed | None:
    """Return the published speed-up of these networks, or None. Residual scales do not change a network's time."""

    def same(text: str, published: str) -> bool:
        mine, theirs = parse_student(text).to_dict(), parse_student(published).to_dict()
        return {**mine, "res_scale": None} == {**theirs, "res_scale": None}

    return next((row for row in PUBLISHED if same(teacher, row.teacher) and same(student, row.student)), None)


@torch.no_grad()
def eager_row(files: Mapping[str, Path], size: tuple[int, int], place: OpenOptions, rounds: int) -> tuple[Row, float]:
    """Return the row of eager torch, and the ratio of the teacher's time there to that in srkd's torch runtime."""
    device = torch.device(place.device)
    lr = torch.rand(1, 3, size[1], size[0], generator=torch.Generator().manual_seed(0)).to(device)
    networks = {name: load_checkpoint(file).network.eval().to(device) for name, file in files.items()}
    runtime = open_model(files["teacher"], place)
    ways: dict[str, Callable[[], object]] = {
        "teacher": partial(networks["teacher"], lr),
        "student": partial(networks["student"], lr),
        "runtime": partial(runtime.run, lr),
    }
    with torch_threads(place.threads):
        times = in_turns(ways, rounds, device=device)
    ms = {name: 1000 * statistics.median(each) for name, each in times.items()}

    def ratio(above: str, below: str) -> float:
        return statistics.median(a / b for a, b in zip(times[above], times[below], strict=True))

    over = ratio("teacher", "student")
    cells: dict[str, Cell] = {"runtime": "eager torch", "precision": "fp32"}
    cells |= {"teacher_ms": ms["teacher"], "student_ms": ms["student"], "ratio": over, "over_eager": over}
    return cells, ratio("teacher", "runtime")


def rows(report: ProfileReport, slower: float) -> list[Row]:
    """Return a row for each runtime and precision of the student, with the teacher's time."""
    by_key = {(row.model, row.runtime, row.precision): row for row in report.rows}
    table: list[Row] = []
    for (model, runtime, precision), row in by_key.items():
        if model != "student":
            continue
        # A student in eight bits is compared with the teacher in float in the same runtime.
        teacher = by_key.get(("teacher", runtime, precision)) or by_key.get(("teacher", runtime, "fp32"))
        cells: dict[str, Cell] = {
            "runtime": runtime,
            "precision": precision,
            "teacher_ms": None if teacher is None else teacher.latency_ms.p50,
            "student_ms": row.latency_ms.p50,
            "ratio": row.speedup_same_runtime,
            "over_eager": None if row.speedup_vs_teacher_eager is None else slower * row.speedup_vs_teacher_eager,
        }
        table.append(cells)
    return table
