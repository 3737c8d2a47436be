"""Gain in speed and cost in quality of a teacher cache: `python -m benchmarks teacher_cache`.

Speed: steps of EDSR 32/256 → 32/64 ×4 with random weights, with and without the cache, in turns in one process, beside
the ratio that multiply-accumulates predict (three passes of the student a step, one of the teacher for each input that
it still has to see). Quality: the embedded teacher, the embedded photos, the same seeds with and without the cache.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.evidence import Benchmark, Cell, Column, Row, Table, save
from compressor.base.cache_folder import CacheFolder
from compressor.data.batches import Batches, View
from compressor.data.decode import decode_all
from compressor.data.store import ImageStore
from compressor.data.teacher_cache import TeacherCache
from compressor.images.sets import embedded_pairs
from compressor.models.networks.base import Network
from compressor.models.networks.cost import cost
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import build
from compressor.teachers.teacher import Teacher
from compressor.training.guard import SkippedStep
from compressor.training.loop import Trainer
from compressor.training.losses import Losses
from compressor.training.method import Method
from compressor.training.state import State
from compressor.training.step import Step
from recipes.config.reading import load_preset
from recipes.methods.logits import Logits
from srkd import compress
from srkd.record.trials import Spread

BENCHMARK = Benchmark(
    "What does a teacher cache bring in speed, and what does it cost in quality?",
    minutes=15,
    small=("--rounds", "1", "--steps", "2", "--seeds", "1"),
)

SCALE = 4
TEACHER = EDSRSpec(scale=SCALE, width=256, depth=32, res_scale=0.1)
STUDENT = EDSRSpec(scale=SCALE, width=64, depth=32)
QUALITY = ("schedule.batch=4", "schedule.lr_patch=24", "schedule.rate=5e-4", "schedule.decay=cosine")


@dataclass(frozen=True)
class Upcycling:
    """A method for timing with the inputs of DUKD: the LR patch, an HR crop of its size, the downscaled LR patch."""

    name: str = "upcycling"
    teacher_views: tuple[View, ...] = ("whole", "zoom-out")

    @property
    def weights(self) -> Mapping[str, float]:
        return dict.fromkeys(("pixel", "logits", "zoom_in", "zoom_out"), 1.0)

    def modules(self, teacher: Network | None, student: Network) -> nn.ModuleDict:
        return nn.ModuleDict()

    def terms(self, step: Step) -> dict[str, torch.Tensor]:
        zoomed_in = step.hr[..., : step.lr.shape[-2], : step.lr.shape[-1]].contiguous()
        inputs = {"logits": step.lr, "zoom_in": zoomed_in, "zoom_out": step.zoom_out()}
        terms = {name: F.l1_loss(step.student(lr).sr, step.teacher(lr).sr) for name, lr in inputs.items()}
        return {"pixel": F.l1_loss(step.student().sr, step.hr), **terms}


@dataclass(frozen=True)
class Case:
    """A method, the areas of its networks' inputs as fractions of an LR patch, and those that are cached."""

    title: str
    method: Logits | Upcycling
    areas: tuple[float, ...]
    cached: tuple[float, ...]

    @property
    def predicted(self) -> float:
        """Return the speed-up that multiply-accumulates predict."""
        teacher, student = (cost(spec, (64, 64)).macs for spec in (TEACHER, STUDENT))
        training = 3 * student * sum(self.areas)
        return (training + teacher * sum(self.areas)) / (training + teacher * (sum(self.areas) - sum(self.cached)))


CASES = (
    Case("logits", Logits(), (1.0,), (1.0,)),
    Case("the inputs of DUKD", Upcycling(), (1.0, 1.0, 1 / SCALE**2), (1.0, 1 / SCALE**2)),
)


class Clock:
    """Events that record when each step ended."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.now, self.times = now, [now()]

    def on_step(self, done: int, rate: float, losses: Losses) -> None:
        self.times.append(self.now())

    def on_skip(self, done: int, skipped: SkippedStep) -> None:
        raise RuntimeError(f"a step was skipped: {skipped.why}")

    def note(self, line: str) -> None:
        pass

    def how_to_continue(self) -> str:
        return ""

    def after_step(self, done: int, state: State) -> None:
        pass

    def seconds(self) -> list[float]:
        """Return the seconds of every step but the first, which also looks for gradient paths."""
        return [later - earlier for earlier, later in zip(self.times[1:], self.times[2:], strict=False)]


SPEED_COLUMNS = (
    Column("step", "step"),
    Column("without", "steps/s without", ".2f"),
    Column("with", "with", ".2f"),
    Column("ratio", "ratio", ".2f"),
    Column("predicted", "predicted by MACs", ".2f"),
)
QUALITY_COLUMNS = (
    Column("seed", "seed"),
    Column("without", "without", ".3f"),
    Column("with", "with", ".3f"),
    Column("difference", "difference", "+.3f"),
    Column("targets", "cached over direct targets, dB", ".1f"),
)


def speed(device: torch.device, batch: int, lr_patch: int, rounds: int, now: Callable[[], float]) -> list[Row]:
    """Return steps per second of each case, without and with the cache."""
    store, rows = small_store(lr_patch), list[Row]()
    teacher = Teacher(build(TEACHER, seed=0)).move_to(device)
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            plain = Batches.for_store(store.to(device), batch=batch, lr_patch=lr_patch, seed=0)
            cache = TeacherCache.plan(
                teacher, store, case.method.teacher_views, folder=CacheFolder(Path(folder)), lr_patch=lr_patch
            )
            cached = plain.with_labels(cache.fill(teacher))
            without, with_it = in_turns(case.method, teacher, (plain, cached), rounds, now)
        cells: dict[str, Cell] = {"step": case.title, "without": without, "with": with_it}
        rows.append({**cells, "ratio": with_it / without, "predicted": case.predicted})
    return rows


def small_store(lr_patch: int) -> ImageStore:
    """Return a store of one embedded photo, which is enough to time a step."""
    return decode_all(embedded_pairs("train")[:1], scale=SCALE).select(lr_patch=lr_patch)


def in_turns(
    method: Method, teacher: Teacher, sources: Sequence[Batches], rounds: int, now: Callable[[], float]
) -> tuple[float, float]:
    """Return the steps per second of both sources of batches, by their median steps."""
    seconds: tuple[list[float], list[float]] = ([], [])
    stage = load_preset("logits", ["schedule.steps=3"]).stage([method])
    for _ in range(rounds):
        for source, measured in zip(sources, seconds, strict=True):
            student = build(STUDENT, seed=1).to(teacher.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            clock = Clock(now)
            Trainer(
                [stage], State.fresh(student, teacher.network, stage), source, teacher.network, clock, seed=0
            ).train(stage)
            measured += clock.seconds()
    return 1 / statistics.median(seconds[0]), 1 / statistics.median(seconds[1])


def quality(steps: int, seeds: int, device: str) -> Table:
    """Return the scores of runs of the same seeds and batches, without and with the cache."""
    rows, differences, bicubic = list[Row](), list[float](), 0.0
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as folder:
            lines = list[str]()
            plain, cached = (
                compress(
                    recipe="logits",
                    width=0.5,
                    steps=steps,
                    seed=seed,
                    settings=QUALITY,
                    device=device,
                    teacher_cache=use_cache,
                    out=Path(folder, str(use_cache)),
                    announce=lines.append,
                )
                for use_cache in (False, True)
            )
        bicubic = plain.bicubic.psnr_y
        before, after = plain.student.psnr_y, cached.student.psnr_y
        differences.append(after - before)
        cells: dict[str, Cell] = {"seed": seed, "without": before, "with": after}
        rows.append({**cells, "difference": after - before, "targets": _nearness(lines)})
    caption = (
        f"logits, embedded teacher to half its width, embedded photos, {', '.join(QUALITY)}, {steps} steps, {device}; "
        f"PSNR-Y on the validation photos, where bicubic has {bicubic:.3f} dB."
    )
    spread = Spread.of(differences)
    sd = "" if spread.sd is None else f" ± {spread.sd:.3f}"
    return Table(QUALITY_COLUMNS, rows, caption, [f"Mean difference: {spread.mean:+.3f}{sd} dB."])


def _nearness(lines: Sequence[str]) -> float | None:
    """Return the PSNR of cached targets in dB, from the note of a run with a cache."""
    announced = re.search(r"teacher cache: PSNR .*whole ([\d.]+) dB", "\n".join(lines))
    return None if announced is None else float(announced[1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=1, help="16 is usual on a GPU")
    parser.add_argument("--lr-patch", type=int, default=16, help="48 is usual on a GPU")
    parser.add_argument("--rounds", type=int, default=3, help="turns of 3 steps each")
    parser.add_argument("--steps", type=int, default=300, help="of each run that measures quality")
    parser.add_argument("--seeds", type=int, default=3, help="0: speed alone")
    parser.add_argument(
        "--busy",
        action="store_true",
        help="count processor seconds: for one thread on a machine that does other things",
    )
    options = parser.parse_args()
    now = time.process_time if options.busy else time.perf_counter
    caption = (
        f"EDSR 32/256 to 32/64 ×{SCALE}, random weights, fp32, batch {options.batch}, LR patch {options.lr_patch}, "
        f"{options.device}; {torch.get_num_threads()} thread(s), the median of steps in turns"
        f"{', processor seconds' if options.busy else ''}."
    )
    rows = speed(torch.device(options.device), options.batch, options.lr_patch, options.rounds, now)
    tables = {"speed": Table(SPEED_COLUMNS, rows, caption)}
    if options.seeds:
        tables["quality"] = quality(options.steps, options.seeds, options.device)
    save("teacher_cache", tables, seeds=range(options.seeds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
