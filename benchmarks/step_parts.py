"""Time of a training step by part: `python -m benchmarks step_parts [--methods fakd,csd]`.

Processor milliseconds (all threads) in each part of a step of the embedded teacher and a student of half its width,
bf16, φ = teacher; the median of steps. Each part is measured without parts inside it: `terms` is the time of a method
besides forwards and distances, and `rest` is the loop itself.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch

import compressor.training.loop as loop_module
import recipes.methods.fakd
import recipes.terms.contrast
from benchmarks.evidence import Benchmark, Cell, Column, Table, add_variant_option, save
from benchmarks.method_costs import loop_of
from benchmarks.methods_compared import TITLES, all_methods
from compressor.base.memory import keep_freed_memory
from compressor.data.batches import Batches
from compressor.training.step import Runner
from recipes.terms.perceptual import TeacherPhi

BENCHMARK = Benchmark(
    "Where does the time of a training step go?",
    minutes=5,
    small=("--methods", "fakd", "--batch", "2", "--lr-patch", "16"),
)

PARTS = ("data", "student", "teacher", "φ", "distances", "terms", "backward", "clip", "Adam", "average", "rest")
STEPS = 7
COLUMNS = (
    Column("method", "method"),
    *(Column(part, part, ".1f") for part in PARTS),
    Column("all", "all", ".0f"),
)


class Clock:
    """Processor seconds by part; time in nested parts counts for the inner one."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._stack: list[str] = ["rest"]
        self._since = time.process_time()

    def _change(self, part: str | None) -> None:
        now = time.process_time()
        self.seconds[self._stack[-1]] += now - self._since
        self._since = now
        if part is None:
            self._stack.pop()
        else:
            self._stack.append(part)

    def timed(self, function: Callable[..., Any], part: str | Callable[..., str]) -> Callable[..., Any]:
        @functools.wraps(function)
        def run(*arguments: Any, **options: Any) -> Any:
            self._change(part if isinstance(part, str) else part(*arguments))
            try:
                return function(*arguments, **options)
            finally:
                self._change(None)

        return run

    def take(self) -> dict[str, float]:
        """Return the seconds by part since the last call, and reset them."""
        self._change("rest")
        self._stack.pop()
        seconds, self.seconds = self.seconds, defaultdict(float)
        return seconds


@contextmanager
def parts_timed(clock: Clock, state: Any) -> Iterator[None]:
    """Time the parts of every step in the context."""
    targets: list[tuple[Any, str, str | Callable[..., str]]] = [
        (Batches, "at", "data"),
        (Runner, "__call__", lambda runner, *_: "student" if runner.trains else "teacher"),
        (TeacherPhi, "forward", "φ"),
        (recipes.terms.contrast, "sample_distances", "distances"),
        (recipes.methods.fakd, "affinity_l1", "distances"),
        (loop_module, "build_networks", "set-up"),  # runs once, so it has no column
        (loop_module, "compute_losses", "terms"),
        (torch.autograd, "backward", "backward"),
        (loop_module, "clip_gradients", "clip"),
        (state.optimiser, "step", "Adam"),
        (state.ema, "update", "average"),
    ]
    with ExitStack() as stack:
        for owner, name, part in targets:
            stack.enter_context(mock.patch.object(owner, name, clock.timed(getattr(owner, name), part)))
        yield


def parts_of(method: str, options: argparse.Namespace) -> dict[str, float]:
    """Return the median milliseconds of each part of a method's step."""
    with tempfile.TemporaryDirectory() as folder:
        one = loop_of(method, Path(folder) / "run", options, "bf16")
        one.run(2)
        clock, steps = Clock(), []
        with parts_timed(clock, one.state):
            for _ in range(STEPS):
                clock.take()
                one.run(1)
                steps.append(clock.take())
    there = [part for part in PARTS if any(part in step for step in steps)]
    return {part: 1e3 * statistics.median(step.get(part, 0.0) for step in steps) for part in there}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default=",".join(all_methods()))
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--lr-patch", type=int, default=32)
    parser.add_argument("--width", type=float, default=0.5)
    add_variant_option(parser)
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    rows = []
    for method in options.methods.split(","):
        parts = parts_of(method, options)
        cells: dict[str, Cell] = {"method": TITLES.get(method, method), **parts, "all": sum(parts.values())}
        rows.append(cells)
        print(cells, file=sys.stderr, flush=True)
    caption = (
        f"Milliseconds of the processor a step, the median of {STEPS}; {torch.get_num_threads()} thread(s), bf16, "
        f"{options.batch} patches of {options.lr_patch}×{options.lr_patch}."
    )
    save("step_parts", Table(COLUMNS, rows, caption), variant=options.variant)
    return 0


if __name__ == "__main__":
    sys.exit(main())
