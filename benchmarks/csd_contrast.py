"""CSD at several widths, batches and weights of its contrast: `python -m benchmarks csd_contrast --data BENCHMARKS`.

Each student of CSD is compared with one of the same width that is solved for and trained with L1 on the same batches.
Every finished run is kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

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
from compressor.models.networks.cost import cost
from compressor.models.networks.registry import spec_from_dict

BENCHMARK = Benchmark(
    "How do CSD's students depend on their width, the batch and the weight of the contrast?",
    minutes=60,
    arguments=("--data", "{sets}", "--train", "{photos}", "--steps", "300"),
    small=("--data", "{sets}", "--steps", "2", "--seeds", "1", "--widths", "0.25", "--out", "runs/small/csd-contrast"),
)

WIDTHS = (0.25, 0.5, 0.75)
LR_SIZE = (128, 128)
PAPER_WEIGHT, PAPER_NEGATIVES = "lam=0.784314", 10
PUBLISHED: Mapping[float, str] = {
    0.25: f"{Published((0.11, 0.09, 0.08))} dB over scratch (table 1)",
    0.5: "-0.13 dB to the teacher on Urban100, 1.77 times as fast",
}
"""Published figures of CSD's students by width."""


def contenders(width: float) -> list[Contender]:
    """Return L1 from a fit, then CSD; at half the width also with the published weight, and with a larger batch."""
    percent, larger = round(100 * width), (f"schedule.batch={PAPER_NEGATIVES}",)

    def l1(name: str, settings: tuple[str, ...] = ()) -> Contender:
        return Contender(f"l1-{percent}{name}", "scratch", "fit + L1", width=width, init="fit", settings=settings)

    def csd(name: str, settings: tuple[str, ...] = ()) -> Contender:
        return Contender(f"csd-{percent}{name}", "csd", "csd", width=width, settings=("phi=teacher", *settings))

    rows = [l1(""), csd("")]
    if width == 0.5:
        rows += [csd("-paper-weight", settings=(PAPER_WEIGHT,)), l1("-b10", larger), csd("-b10", settings=larger)]
    return rows


def main() -> None:
    parser = parser_of(__doc__, out="runs/csd-contrast", steps=300)
    parser.add_argument("--widths", default=",".join(map(str, WIDTHS)), help="fractions of the teacher's channels")
    options = parser.parse_args()
    budget = budget_of(options, SETTINGS)
    rows = [one for text in options.widths.split(",") for one in contenders(float(text))]
    scores = compare(rows, budget, options.data)
    facts = {one.name: facts_of(budget.folder(one.name)) for one in rows}
    shared = conditions(budget.folder(rows[0].name), shared=f"{options.steps:,} steps")
    caption = (
        f"Teacher: the embedded EDSR 16/48; {shared} "
        "Published: CSD's figures of EDSR+ x4, not over fit + L1; of width 0.75 it has none."
    )
    save("csd_contrast", table(rows, scores, facts, caption), seeds=seeds_of(budget), variant=options.variant)


def table(rows: Sequence[Contender], scores: Scores, facts: Mapping[str, dict[str, Any]], caption: str) -> Table:
    """Return a row per student: scores, also by seed, gain over L1 on the same batches, published figure and cost."""
    columns = [
        Column("width", "width", "g"),
        Column("row", ""),
        Column("batch", "batch"),
        Column("weight", "weight of the contrast", ".3f"),
        *(Column(name, name) for name in SETS),
        Column("gain", "gain over fit + L1"),
        Column("published", "published"),
        Column("params", "parameters", ",d"),
        Column("gmacs", "GMAC", ".2f"),
    ]
    baselines = {(one.width, batch_of(facts[one.name])): one.name for one in rows if one.recipe == "scratch"}
    found: list[Row] = []
    for one in rows:
        contents, batch = facts[one.name], batch_of(facts[one.name])
        weights, baseline = contents["code"]["methods"][0]["weights"], baselines[one.width, batch]
        counted = cost(spec_from_dict(contents["student"]), LR_SIZE)
        is_usual = one.recipe == "csd" and one.settings == ("phi=teacher",)
        cells: Row = {"width": one.width, "row": one.label, "batch": batch, "weight": weights.get("contrast")}
        found.append(
            {
                **cells,
                **cells_of(scores[one.name]),
                "gain": None if one.name == baseline else gain(scores, one.name, baseline),
                "published": PUBLISHED.get(one.width or 1.0) if is_usual else None,
                "params": counted.params,
                "gmacs": counted.macs / 1e9,
            }
        )
    return Table(columns, found, caption)


def batch_of(facts: Mapping[str, Any]) -> int:
    return int(facts["preset"]["schedule"]["batch"])
