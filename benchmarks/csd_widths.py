"""CSD at a quarter, half and three quarters of the width: `python -m benchmarks csd_widths --data BENCHMARKS`.

Each student of CSD is compared with students of the same width that are solved for and trained with L1, and with
logits. All have the same steps and, for one seed, the same batches. Size and speed depend only on the width. Every
finished run is kept.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.equal_budget import (
    SETS,
    Contender,
    Published,
    Scores,
    budget_of,
    cells_of,
    compare,
    conditions,
    facts_of,
    gain,
    parser_of,
    seeds_of,
)
from benchmarks.evidence import Benchmark, Column, Row, Table, save
from benchmarks.methods_compared import SETTINGS
from compressor.base.machine import torch_threads
from compressor.models.networks.cost import cost
from compressor.models.networks.registry import spec_from_dict
from compressor.models.students.students import student_text
from export.plan.measure import Environment, measure_file, write_untrained
from export.plan.search import CandidateShape

BENCHMARK = Benchmark(
    "How do quality, size and speed of CSD's students depend on their width?",
    minutes=90,
    arguments=("--data", "{sets}", "--train", "{photos}", "--steps", "300"),
    small=("--data", "{sets}", "--steps", "2", "--seeds", "1", "--widths", "0.5", "--out", "runs/small/csd-widths"),
)

WIDTHS = (0.25, 0.5, 0.75)
LR_SIZE = (128, 128)
PUBLISHED: Mapping[float, str] = {
    0.25: f"{Published((0.11, 0.09, 0.08))} dB over scratch (table 1)",
    0.5: "-0.13 dB to the teacher on Urban100, 1.77 times as fast",
}
"""Published figures of CSD's students by width."""


@dataclass(frozen=True)
class Size:
    """Parameters, GMAC and ms of a width's student, in fp32 in ONNX Runtime on one thread."""

    params: int
    gmacs: float
    ms: float


def contenders(width: float) -> list[Contender]:
    """Return L1 and logits from a fit, and CSD, which trains slices of the turned teacher."""
    percent = round(100 * width)
    return [
        Contender(f"l1-{percent}", "scratch", "fit + L1", width=width, init="fit"),
        Contender(f"logits-{percent}", "logits", "logits", width=width),
        Contender(f"csd-{percent}", "csd", "csd", width=width, settings=("phi=teacher",)),
    ]


def main() -> int:
    parser = parser_of(__doc__, out="runs/csd-widths", steps=300)
    parser.add_argument("--widths", default=",".join(map(str, WIDTHS)), help="fractions of the teacher's channels")
    options = parser.parse_args()
    budget = budget_of(options, SETTINGS)
    widths = [float(text) for text in options.widths.split(",")]
    chosen = {width: contenders(width) for width in widths}
    scores = compare([one for rows in chosen.values() for one in rows], budget, options.data)
    folders = {width: budget.folder(rows[0].name) for width, rows in chosen.items()}
    shared = f"{options.steps:,} steps of {{patches}}"
    caption = (
        f"Teacher: the embedded EDSR 16/48; {conditions(folders[widths[0]], shared=shared)} "
        f"Time: ONNX Runtime, fp32, one thread, LR {LR_SIZE[0]}x{LR_SIZE[1]}. Published: CSD's figures of EDSR+ x4, "
        "not over fit + L1; of width 0.75 it has none."
    )
    sizes = {width: size_of(folder) for width, folder in folders.items()}
    save("csd_widths", table(chosen, scores, sizes, caption), seeds=seeds_of(budget), variant=options.variant)
    return 0


def size_of(run: Path) -> Size:
    """Return the cost of a run's student and its measured time."""
    spec = spec_from_dict(facts_of(run)["student"])
    counted = cost(spec, LR_SIZE)
    candidate = CandidateShape(spec.arch, 0, 0, counted.params, counted.macs, student_text(spec))
    place = Environment(lr_size=LR_SIZE, threads=1)
    with torch_threads(1), tempfile.TemporaryDirectory() as folder:
        measured = measure_file(write_untrained(candidate, place, Path(folder)), place, seconds=5.0)
    return Size(counted.params, counted.macs / 1e9, measured.ms)


def table(
    chosen: Mapping[float, Sequence[Contender]], scores: Scores, sizes: Mapping[float, Size], caption: str
) -> Table:
    """Return a row per width and method: scores, also by seed, gain over L1, published figure, cost of the width."""
    columns = [
        Column("width", "width", "g"),
        Column("row", ""),
        *(Column(name, name) for name in SETS),
        Column("gain", "gain over fit + L1"),
        Column("published", "published"),
        Column("params", "parameters", ",d"),
        Column("gmacs", "GMAC", ".2f"),
        Column("ms", "ms", ".0f"),
    ]
    rows: list[Row] = []
    for width, group in chosen.items():
        baseline = group[0].name
        for one in group:
            over = None if one.name == baseline else gain(scores, one.name, baseline)
            published = PUBLISHED.get(width) if one.recipe == "csd" else None
            cells = {"width": width, "row": one.label, **cells_of(scores[one.name]), "gain": over}
            rows.append({**cells, "published": published, **vars(sizes[width])})
    return Table(columns, rows, caption)


if __name__ == "__main__":
    sys.exit(main())
