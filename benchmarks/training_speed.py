"""What a training step costs: `python -m benchmarks.training_speed [--teacher FILE] [--student SPEC] [--recipe NAME]`.

Four ways to make the same step, a few steps of each in turns, so that ratios hold although the machine is shared:

- field: eager fp32 networks, torch's Adam as it comes, an average of the weights parameter by parameter, and a
  DataLoader with two workers that reads, crops and turns PNG files;
- srkd: the loop of `srkd compress`, with precision and layout chosen by measurement;
- step: forward, backward, clip, Adam and average on the same tensors, without data, guard and logging;
- bare: forward and backward alone.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.field_practice import FieldLoop, write_pngs
from benchmarks.own_practice import OwnLoop
from compressor.assets import embedded_teacher
from compressor.base.machine import cpu_model
from compressor.models.students import parse_student
from compressor.teachers.teacher import load_teacher

ROUNDS = 7


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", type=Path, default=embedded_teacher())
    parser.add_argument("--student", default="edsr:width=24,depth=16,scale=4")
    parser.add_argument("--recipe", default="logits", choices=("scratch", "logits"))
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr-patch", type=int, default=48)
    parser.add_argument("--steps", type=int, default=4, help="steps of each way in a round")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    device = torch.device(options.device)
    teacher = load_teacher(options.teacher) if options.recipe == "logits" else None
    spec = parse_student(options.student, scale=4)
    with tempfile.TemporaryDirectory() as folder:
        pngs = write_pngs(Path(folder) / "png", scale=spec.scale)
        field = FieldLoop(spec, teacher, pngs, batch=options.batch, lr_patch=options.lr_patch, device=device)
        own = OwnLoop(
            spec,
            teacher,
            options.recipe,
            Path(folder) / "run",
            batch=options.batch,
            lr_patch=options.lr_patch,
            device=device,
        )
        seconds = in_turns(
            {"field": field.run, "srkd": own.run, "step": own.step_alone, "bare": own.bare, "data": own.data},
            options.steps,
        )
        report(seconds, own, options)
    return 0


def in_turns(ways: dict[str, Callable[[int], None]], steps: int) -> dict[str, list[float]]:
    """Seconds a step of each way and round; the first round warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS + 1):
        for name, run in ways.items():
            started = time.perf_counter()
            run(steps)
            seconds[name].append((time.perf_counter() - started) / steps)
    return {name: figures[1:] for name, figures in seconds.items()}


def report(seconds: dict[str, list[float]], own: OwnLoop, options: argparse.Namespace) -> None:
    def ratio(above: str, below: str) -> tuple[float, float]:
        """Median of the rounds' ratios and half their range: a round's ways ran one after the other."""
        each = [a / b for a, b in zip(seconds[above], seconds[below], strict=True)]
        return statistics.median(each), (max(each) - min(each)) / 2

    print(f"{cpu_model()}, {options.device}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"{options.recipe}, {options.student}, batch {options.batch}, LR {options.lr_patch}; {own.mode_line()}")
    for name, figures in seconds.items():
        print(f"  {name:6} {statistics.median(figures) * 1e3:9.2f} ms a step")
    for text, above, below in (
        ("srkd is faster than the field's loop by", "field", "srkd"),
        ("the loop over forward, backward and update of the same tensors", "srkd", "step"),
        ("the loop over forward and backward alone", "srkd", "bare"),
        ("data of a step", "data", "srkd"),
    ):
        middle, spread = ratio(above, below)
        print(f"  {text}: {middle:.3f} +- {spread:.3f}")


if __name__ == "__main__":
    sys.exit(main())
