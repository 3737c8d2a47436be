"""How long each recipe takes: `python -m benchmarks preset_lengths`.

Processor seconds (user and system) per step of each recipe that repeats no published run, with its own batch and
student of the embedded teacher, on the embedded photos, in a long run's precision (bf16 if the processor computes that
natively): the mean of the last two of three steps. Students that would be solved for start from
slices, as the cost of a step does not depend on the weights.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

import torch

from benchmarks.evidence import Benchmark, Column, Row, Table, add_variant_option, save
from benchmarks.methods import OPTIONS
from compressor.base.compute_device import ComputeDevice
from compressor.training.events import RunEvents
from compressor.training.losses import Losses
from recipes.catalogue import RECIPES
from recipes.config.preset import Preset
from recipes.config.reading import load_preset
from srkd import compress

BENCHMARK = Benchmark(
    "How long does each recipe take on one core?",
    minutes=8,
    small=("--recipes", "inherit", "--set", "schedule.batch=1", "--set", "schedule.lr_patch=16"),
)

STEPS = 3
COLUMNS = (
    Column("recipe", "recipe"),
    Column("batch", "batch"),
    Column("seconds", "seconds a step", ".2g"),
    Column("steps", "steps", ",d"),
    Column("hours", "hours of one core", ".1f"),
)


def all_recipes() -> list[str]:
    return [name for name in RECIPES if not name.endswith(("-paper", "-code"))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", default=",".join(all_recipes()), help="names separated by commas")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="settings", help="as in compress"
    )
    add_variant_option(parser)
    options = parser.parse_args()
    torch.set_num_threads(1)
    precision = "bf16" if ComputeDevice.named("cpu").computes_bf16 else "fp32"
    settings = [f"schedule.precision={precision}", *options.settings]
    rows: list[Row] = []
    for name in options.recipes.split(","):
        preset = load_preset(name, tuple(settings))
        rows.append(row(name, preset, seconds_a_step(name, preset, settings)))
        print(rows[-1], file=sys.stderr, flush=True)
    caption = (
        f"Processor seconds of a step, the mean of two after the first, {torch.get_num_threads()} thread(s), "
        f"{precision}, ×4, φ = teacher; the embedded teacher and the recipe's own student."
    )
    save("preset_lengths", Table(COLUMNS, rows, caption), variant=options.variant)


def seconds_a_step(name: str, preset: Preset, settings: list[str]) -> float:
    """Train a few steps, and return the processor seconds of one."""
    times: list[float] = []
    on_step = RunEvents.on_step

    def noted(events: RunEvents, done: int, rate: float, losses: Losses) -> None:
        times.append(time.process_time())
        on_step(events, done, rate, losses)

    with patch.object(RunEvents, "on_step", noted), tempfile.TemporaryDirectory() as folder:
        compress(
            recipe=name,
            steps=STEPS,
            init="inherit" if preset.student.init == "fit" else None,
            settings=(*OPTIONS.get(name, ()), *settings),
            out=Path(folder, "run"),
            announce=lambda line: None,
        )
    return (times[-1] - times[-3]) / 2


def row(name: str, preset: Preset, seconds: float) -> Row:
    rule = preset.schedule
    return {
        "recipe": f"`{name}`",
        "batch": f"{rule.batch} of {rule.lr_patch}×{rule.lr_patch}",
        "seconds": seconds,
        "steps": rule.steps,
        "hours": seconds * rule.steps / 3600,
    }
