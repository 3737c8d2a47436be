"""Students quantised during training, beside the float one they start from:
`python -m benchmarks.quantised_students --data DIR --train PHOTOS --to quantised.md`.

DIR holds Set5, Set14 and B100. Every run starts from the embedded student's weights and has the same steps and, for one
seed, the same batches. `float, trained on` is the control: the same steps without quantisation. JSON with every score
lies beside the Markdown file.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import srkd
from benchmarks.equal_budget import (
    FIRST_SEED,
    SETS,
    Contender,
    Scores,
    budget_of,
    compare,
    conditions,
    gain,
    parser_of,
    told_to,
)
from compressor.assets import embedded_student
from compressor.base.files import atomic_path
from compressor.models.checkpoints.load import load_checkpoint
from compressor.models.quantisers import quantised_bytes
from srkd.trials_report import Spread

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
    sizes = {
        one.name: quantised_bytes(load_checkpoint(budget.out / f"{one.name}-seed{FIRST_SEED}").network)
        for one in chosen
    }
    folder = budget.out / f"{CONTROL}-seed{FIRST_SEED}"
    seeds = f"{budget.seeds} seeds" if budget.seeds > 1 else "1 seed"
    told_to(options.to, [f"{conditions(folder)} {seeds}.", "", *table(chosen, scores, start, sizes)])
    if options.to is not None:
        found = {"start": start, "scores": dict(scores), "bytes": sizes, "steps": budget.steps, "seeds": budget.seeds}
        with atomic_path(Path(options.to).with_suffix(".json")) as temporary:
            temporary.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


def table(rows: Sequence[Contender], scores: Scores, start: Mapping[str, float], sizes: Mapping[str, int]) -> list[str]:
    """A row a contender: its scores, what it loses to the control, and its bytes at its bits."""
    lines = [
        f"| | {' | '.join(SETS)} | over the float student trained on | MB |",
        "| --- " * (len(SETS) + 3) + "|",
        f"| the student they start from | {' | '.join(f'{start[name]:.3f}' for name in SETS)} | | |",
    ]
    for one in rows:
        cells = [str(Spread.of([run[name] for run in scores[one.name]])) for name in SETS]
        over = "" if one.name == CONTROL else gain(scores, one.name, CONTROL)
        lines.append(f"| {one.label} | {' | '.join(cells)} | {over} | {sizes[one.name] / 1e6:.3f} |")
    return lines


if __name__ == "__main__":
    sys.exit(main())
