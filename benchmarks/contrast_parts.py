"""CLSD-style part by part, and the contrast through one φ or another: `python -m benchmarks contrast_parts --data DIR`.

DIR holds Set5, Set14 and B100. The first table adds heads (deep supervision), then their contrast, with the label or
the student's own image as its positive. The second is csd-lite without its contrast, with φ made of the teacher's first
blocks, of a VGG-19 with random weights and, where --phi-weights names it, of torchvision's. All students start from the
same fit and have the same steps and, for one seed, the same batches. Every finished run is kept.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from benchmarks.equal_budget import Contender, budget_of, compared, parser_of, seeds_of
from benchmarks.evidence import Benchmark, Table, save
from benchmarks.methods_compared import FIT_ALONE, SETTINGS, WIDTH
from compressor.base.files import atomic_path
from recipes.terms.perceptual import VGG19

BENCHMARK = Benchmark(
    "What does each part of CLSD-style bring, and which φ contrasts best?",
    minutes=150,
    arguments=("--data", "{sets}", "--train", "{photos}", "--steps", "300"),
    small=("--data", "{sets}", "--steps", "2", "--seeds", "1", "--only", "clsd", "--out", "runs/small/contrast"),
)

PHI = ("phi=teacher",)
CLSD = (
    FIT_ALONE,
    Contender("ds", "ds", "heads (DS)", width=WIDTH),
    Contender("clsd-gt", "clsd", "heads and contrast, positive the label", width=WIDTH, settings=PHI),
    Contender(
        "clsd-final",
        "clsd",
        "heads and contrast, positive the student's image",
        width=WIDTH,
        settings=(*PHI, "pos=final"),
    ),
)
PUBLISHED = {"ds": "+0.048 / +0.240", "clsd-gt": "+0.072 / +0.300"}
REMARK = (
    "Published: CLSD's table 5, gain over its baseline on B100 / Urban100, x2. We had to guess which of its rows is "
    "which, and its positive: the row with everything stands beside the label."
)


def main() -> int:
    parser = parser_of(__doc__, out="runs/contrast-parts", steps=300)
    parser.add_argument("--only", choices=("clsd", "phi"), help="one of the two tables; none: both")
    parser.add_argument("--phi-weights", type=Path, metavar="FILE", help="torchvision's vgg19-dcbb9e9d.pth")
    options = parser.parse_args()
    budget, tables = budget_of(options, SETTINGS), dict[str, Table]()
    shared = f"{options.steps:,} steps of {{patches}}"
    if options.only != "phi":
        tables["heads"] = compared(CLSD, budget, options.data, PUBLISHED, shared=shared, remark=REMARK)
    if options.only != "clsd":
        tables["phi"] = compared(phi_rows(options), budget, options.data, shared=shared)
    save("contrast_parts", tables, seeds=seeds_of(budget), variant=options.variant)
    return 0


def phi_rows(options: argparse.Namespace) -> list[Contender]:
    """Return csd-lite with each φ; with weight 0 the recipe has no contrast."""
    weights = {"a VGG-19 with random weights": random_vgg(options.out / "random-vgg19.pth")}
    if options.phi_weights is not None:
        weights["VGG-19"] = options.phi_weights
    rows = [
        FIT_ALONE,
        Contender("lite-none", "csd-lite", "csd-lite, contrast of weight 0", width=WIDTH, settings=(*PHI, "lam=0")),
        Contender("lite-teacher", "csd-lite", "csd-lite, φ of the teacher's blocks", width=WIDTH, settings=PHI),
    ]
    for title, file in weights.items():
        name, words = f"lite-{file.stem}", f"csd-lite, φ of {title}"
        rows.append(Contender(name, "csd-lite", words, width=WIDTH, settings=("phi=vgg19",), phi_weights=file))
    return rows


def random_vgg(file: Path) -> Path:
    """Write a VGG-19 with fixed random weights if the file does not exist; return the file."""
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(0)
        with atomic_path(file) as temporary:
            torch.save(VGG19().state_dict(), temporary)
    return file


if __name__ == "__main__":
    sys.exit(main())
