"""Cost of half precision in quality: `python -m benchmarks step_precision --data BENCHMARKS [--train PHOTOS]`.

First the teacher's images in bf16 beside those in fp32. Then students after equal steps, with the same batches: all in
fp32, the student alone in bf16, and all in bf16 (teacher, φ and student), which is srkd's choice where the processor
computes bf16 natively. What that gains in speed is the question of `training_speed` and `step_parts`. BENCHMARKS holds
Set5/, Set14/ and B100/. Finished runs are kept in --out.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from benchmarks.equal_budget import (
    Contender,
    budget_of,
    compare,
    conditions,
    gain,
    parser_of,
    seeds_of,
    table,
)
from benchmarks.evidence import Benchmark, Table, save
from benchmarks.methods_compared import OPTIONS, SETTINGS, WIDTH
from compressor.assets import embedded_teacher
from compressor.base.precision import autocast
from compressor.images.files import read_rgb_u8
from compressor.images.metrics import psnr, to_u8
from compressor.images.sets import find_sets
from compressor.models.checkpoints.load import load_checkpoint

BENCHMARK = Benchmark(
    "What does half precision cost in quality?",
    minutes=90,
    arguments=("--data", "{sets}", "--train", "{photos}"),
    small=(
        *("--data", "{sets}", "--steps", "2", "--seeds", "1", "--recipes", "logits"),
        *("--out", "runs/small/precision"),
    ),
)

RECIPES = ("logits", "fakd", "csd-lite", "csd")
PRECISIONS: Mapping[str, tuple[str, ...]] = {
    "fp32": ("schedule.precision=fp32",),
    "bf16 student": ("schedule.teacher_precision=fp32",),
    "bf16": (),
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = parser_of(__doc__, out="runs/step-precision", steps=300)
    parser.add_argument("--recipes", default=",".join(RECIPES), help="names separated by commas")
    options = parser.parse_args(arguments)
    nearness, tables = teacher_line(options.data / "Set5"), dict[str, Table]()
    budget = budget_of(options, SETTINGS)
    for recipe in options.recipes.split(","):
        contenders = [
            Contender(
                f"{recipe}-{name.replace(' ', '-')}",
                recipe,
                f"{recipe}, {name}",
                width=WIDTH,
                settings=(*OPTIONS.get(recipe, ()), *settings),
            )
            for name, settings in PRECISIONS.items()
            # The teacher of a joint run is trained in the student's precision.
            if not (recipe == "csd" and name == "bf16 student")
        ]
        scores = compare(contenders, budget, options.data)
        exact = contenders[0].name
        first = budget.folder(exact)
        tables[recipe] = table(
            contenders,
            scores,
            {},
            None,
            exact,
            caption=f"{nearness} {conditions(first).replace(', fp32, trained', ', trained')}",
            sentences={
                one.name: f"{one.label} over fp32: {gain(scores, one.name, exact)}."
                for one in contenders
                if one.name != exact
            },
        )
    save("step_precision", tables, seeds=seeds_of(budget), variant=options.variant)
    return 0


@torch.no_grad()
def teacher_line(images: Path) -> str:
    """Return a line on the difference between the embedded teacher's images in bf16 and in fp32."""
    teacher, nearness, largest = load_checkpoint(embedded_teacher()).network.eval(), [], 0
    for pair in find_sets(images, scale=teacher.spec.scale)[0].pairs:
        assert pair.lr is not None
        lr = read_rgb_u8(pair.lr)[None].float() / 255
        exact = teacher(lr)
        with autocast("bf16", torch.device("cpu")):
            half = teacher(lr).float()
        nearness.append(float(psnr(255 * half.clamp(0, 1), 255 * exact.clamp(0, 1)).mean()))
        largest = max(largest, int((to_u8(half).int() - to_u8(exact).int()).abs().max()))
    mean = sum(nearness) / len(nearness)
    return (
        f"The embedded teacher in bf16 beside fp32 on {images.name}: {mean:.1f} dB ({min(nearness):.1f} at least), "
        f"{largest} grey levels at most."
    )


if __name__ == "__main__":
    sys.exit(main())
