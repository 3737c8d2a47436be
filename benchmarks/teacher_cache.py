"""What a teacher cache brings and what it costs: `python -m benchmarks.teacher_cache`.

Speed: steps of EDSR 32/256 → 32/64 ×4 with random weights, with and without the cache, in turns in one process, beside
the ratio that multiply-accumulates predict (three passes of the student a step, one of the teacher for each input that
it still has to see). Quality: the embedded teacher, the embedded photos, the same seeds with and without the cache.
"""

from __future__ import annotations

import argparse
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

from compressor.base.cache_folder import CacheFolder
from compressor.base.machine import machine_facts
from compressor.data.batches import Batches, View
from compressor.data.decode import decode_all
from compressor.data.store import ImageStore
from compressor.data.teacher_cache import TeacherCache
from compressor.images.sets import embedded_pairs
from compressor.models.cost import cost
from compressor.models.networks.base import Network
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import build
from compressor.teachers.teacher import Teacher
from compressor.training.guard import Skipped
from compressor.training.loop import Trainer
from compressor.training.losses import Losses
from compressor.training.method import Method
from compressor.training.state import State
from compressor.training.step import Step
from recipes.config.reading import load_preset
from recipes.logits import Logits
from srkd.compression import compress

SCALE = 4
TEACHER = EDSRSpec(scale=SCALE, width=256, depth=32, res_scale=0.1)
STUDENT = EDSRSpec(scale=SCALE, width=64, depth=32)
QUALITY = ("schedule.batch=4", "schedule.lr_patch=24", "schedule.rate=5e-4", "schedule.decay=cosine")


@dataclass(frozen=True)
class Upcycling:
    """The inputs of DUKD: the LR patch, an HR crop of its size, the LR patch shrunk. For timing; not the method."""

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
    """A method, the LR areas of what it shows the networks as fractions of a patch, and which the cache knows."""

    title: str
    method: Logits | Upcycling
    areas: tuple[float, ...]
    cached: tuple[float, ...]

    @property
    def predicted(self) -> float:
        """The ratio of steps per second by multiply-accumulates."""
        teacher, student = (cost(spec, (64, 64)).macs for spec in (TEACHER, STUDENT))
        training = 3 * student * sum(self.areas)
        return (training + teacher * sum(self.areas)) / (training + teacher * (sum(self.areas) - sum(self.cached)))


CASES = (
    Case("logits", Logits(), (1.0,), (1.0,)),
    Case("inputs of DUKD", Upcycling(), (1.0, 1.0, 1 / SCALE**2), (1.0, 1 / SCALE**2)),
)


class Clock:
    """Events that note when each step ended."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.now, self.times = now, [now()]

    def on_step(self, done: int, rate: float, losses: Losses) -> None:
        self.times.append(self.now())

    def on_skip(self, done: int, skipped: Skipped) -> None:
        raise RuntimeError(f"a step was skipped: {skipped.why}")

    def note(self, line: str) -> None:
        pass

    def how_to_continue(self) -> str:
        return ""

    def after_step(self, done: int, state: State) -> None:
        pass

    def seconds(self) -> list[float]:
        """Of every step but the first, which also looks for gradient paths."""
        return [later - earlier for earlier, later in zip(self.times[1:], self.times[2:], strict=False)]


def speed(device: torch.device, batch: int, lr_patch: int, rounds: int, now: Callable[[], float]) -> None:
    print(f"\nEDSR 32/256 → 32/64 x{SCALE}, random weights, fp32, batch {batch}, LR patch {lr_patch}, {device}")
    print(f"{'':16}{'steps/s without':>16}{'with':>8}{'ratio':>8}{'by MACs':>9}")
    store = small_store(lr_patch)
    teacher = Teacher(build(TEACHER, seed=0)).move_to(device)
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            plain = Batches.for_store(store.to(device), batch=batch, lr_patch=lr_patch, seed=0)
            cache = TeacherCache.plan(
                teacher, store, case.method.teacher_views, folder=CacheFolder(Path(folder)), lr_patch=lr_patch
            )
            cached = plain.with_labels(cache.fill(teacher))
            without, with_it = in_turns(case.method, teacher, (plain, cached), rounds, now)
        print(f"{case.title:16}{without:16.3f}{with_it:8.3f}{with_it / without:8.2f}{case.predicted:9.2f}")


def small_store(lr_patch: int) -> ImageStore:
    """One embedded photo: what matters here is the time of a step."""
    return decode_all(embedded_pairs("train")[:1], scale=SCALE).select(lr_patch=lr_patch)


def in_turns(
    method: Method, teacher: Teacher, sources: Sequence[Batches], rounds: int, now: Callable[[], float]
) -> tuple[float, float]:
    """Steps per second of either source of batches, by the median step."""
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


def quality(steps: int, seeds: int, device: str) -> None:
    print(f"\nlogits, embedded teacher → half its width, {', '.join(QUALITY)}, {steps} steps, {device}")
    print(f"{'seed':>6}{'PSNR-Y without':>16}{'with':>9}{'difference':>12}")
    differences, bicubic = [], 0.0
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as folder:
            plain, cached = (
                compress(
                    recipe="logits",
                    width=0.5,
                    steps=steps,
                    seed=seed,
                    settings=QUALITY,
                    device=device,
                    teacher_cache=kept,
                    out=Path(folder) / str(kept),
                    announce=lambda line: print(f"       {line}") if line.startswith("teacher cache: PSNR") else None,
                )
                for kept in (False, True)
            )
        bicubic = plain.bicubic.psnr_y
        before, after = plain.student.psnr_y, cached.student.psnr_y
        differences.append(after - before)
        print(f"{seed:6}{before:16.3f}{after:9.3f}{after - before:+12.3f}")
    spread = f" ± {statistics.stdev(differences):.3f} (sd)" if seeds > 1 else ""
    print(f"difference {statistics.mean(differences):+.3f}{spread} dB; bicubic {bicubic:.3f} dB")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=1, help="16 is usual on a GPU")
    parser.add_argument("--lr-patch", type=int, default=16, help="48 is usual on a GPU")
    parser.add_argument("--rounds", type=int, default=3, help="turns of 3 steps each")
    parser.add_argument("--steps", type=int, default=300, help="of each run that measures quality")
    parser.add_argument("--seeds", type=int, default=2, help="0: speed alone")
    parser.add_argument(
        "--busy",
        action="store_true",
        help="count processor seconds: for one thread on a machine that does other things",
    )
    options = parser.parse_args()
    machine = machine_facts()
    print(f"{machine['cpu']}, {machine['torch_threads']} threads, torch {machine['torch']}, GPU {machine['gpu']}")
    now = time.process_time if options.busy else time.perf_counter
    if options.busy:
        print("seconds are those of this process on the processor")
    speed(torch.device(options.device), options.batch, options.lr_patch, options.rounds, now)
    if options.seeds:
        quality(options.steps, options.seeds, options.device)
    return 0


if __name__ == "__main__":
    sys.exit(main())
