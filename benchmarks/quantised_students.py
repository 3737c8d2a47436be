"""Students quantised during training, beside the float one they start from:
`python -m benchmarks quantised_students --data DIR --train PHOTOS`.

DIR holds Set5, Set14 and B100. Every run starts from the embedded student's weights and has the same steps and, for one
seed, the same batches. `float, trained on` is the control: the same steps without quantisation. JSON with every score
lies beside the Markdown file.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

import srkd
from benchmarks.equal_budget import (
    SETS,
    Contender,
    Scores,
    budget_of,
    cells_of,
    compare,
    conditions,
    gain,
    parser_of,
    seeds_of,
)
from benchmarks.evidence import Benchmark, Column, Row, Table, save
from compressor.assets import embedded_student
from compressor.models.checkpoints.load import load_checkpoint
from compressor.models.quantisers import quantised_bytes

BENCHMARK = Benchmark(
    "What do students lose that are quantised while they train?",
    minutes=60,
    arguments=("--data", "{sets}", "--train", "{photos}"),
    small=("--data", "{sets}", "--steps", "2", "--seeds", "1", "--only", "pams-8-all", "--out", "runs/small/quantised"),
)

SETTINGS = ("batch=8", "lr_patch=24", "rate=1e-4", "decay=cosine", "precision=fp32")
CONTROL = "float"


def contenders() -> list[Contender]:
    student = embedded_student()
    rows = [Contender(CONTROL, "inherit", "float, trained on", width=1.0, init="inherit", teacher=student)]
    for recipe in ("pams", "pact"):
        for bits in (8, 4):
            for placement in ("paper", "all"):
                settings = (f"bits={bits}", f"placement={placement}")
                title = f"{recipe}, {bits} bits, {placement}"
                rows.append(
                    Contender(f"{recipe}-{bits}-{placement}", recipe, title, teacher=student, settings=settings)
                )
    return rows


def main() -> int:
    parser = parser_of(__doc__, out="runs/quantised-students", steps=300)
    parser.add_argument("--only", default="", help="contenders by name, with commas between")
    options = parser.parse_args()
    budget = budget_of(options, SETTINGS)
    chosen = [one for one in contenders() if not options.only or one.name in (CONTROL, *options.only.split(","))]
    scores = compare(chosen, budget, options.data)
    start = {
        name: srkd.evaluate([embedded_student()], data=options.data / name).models["student"][name].psnr_y
        for name in SETS
    }
    sizes = {one.name: quantised_bytes(load_checkpoint(budget.folder(one.name)).network) for one in chosen}
    folder = budget.folder(CONTROL)
    seeds = f"{budget.seeds} seeds" if budget.seeds > 1 else "1 seed"
    result = table(chosen, scores, start, sizes, f"{conditions(folder)} {seeds}.")
    save("quantised_students", result, seeds=seeds_of(budget), variant=options.variant)
    return 0


def table(
    chosen: Sequence[Contender],
    scores: Scores,
    start: Mapping[str, float],
    sizes: Mapping[str, int],
    caption: str,
) -> Table:
    """Return a row per contender: scores, also by seed, gain over the control, and MB with weights at their bits."""
    columns = [
        Column("row", ""),
        *(Column(name, name) for name in SETS),
        Column("gain", "over the float student trained on"),
        Column("megabytes", "MB", ".3f"),
    ]
    rows: list[Row] = [{"row": "the student they start from", **{name: f"{start[name]:.3f}" for name in SETS}}]
    for one in chosen:
        over = None if one.name == CONTROL else gain(scores, one.name, CONTROL)
        rows.append({"row": one.label, **cells_of(scores[one.name]), "gain": over, "megabytes": sizes[one.name] / 1e6})
    return Table(columns, rows, caption)


if __name__ == "__main__":
    sys.exit(main())
