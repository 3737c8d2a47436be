"""A model against itself: how often `srkd profile` finds no measurable difference, on a quiet and on a busy machine.

    python -m benchmarks.profile_itself --runs 10 --busy

Both rows are processes of their own with the same file. `--busy` keeps as many cores at work as there are, beside the
measurement. Prints a line for each run, and how many of them found nothing.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from compressor.assets import embedded_student
from compressor.base.machine import usable_cores
from export.profile.report import ProfileReport, profile_models
from export.profile.settings import Settings

BUSY = "import itertools\nfor _ in itertools.count(): pass"


@contextmanager
def busy_machine(programs: int) -> Iterator[None]:
    """Keep so many programs at work inside."""
    running = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(programs)]
    try:
        yield
    finally:
        for program in running:
            program.kill()
            program.wait()


def profile_itself(model: Path, runtimes: tuple[str, ...], seconds: float, side: int) -> ProfileReport:
    """Profile a model with itself as the teacher."""
    settings = Settings(
        runtimes=runtimes, lr_sizes=((side, side),), seconds=seconds, threads=1, memory=False, quality=False
    )
    return profile_models([model], teacher=model, settings=settings)


def count_none(model: Path, runs: int, runtimes: tuple[str, ...], seconds: float, side: int) -> tuple[int, int]:
    """Return how many verdicts there were, and how many of them are "no measurable difference"."""
    equal = total = 0
    for run in range(runs):
        report = profile_itself(model, runtimes, seconds, side)
        for row in report.rows:
            if row.verdict == "reference" or row.speedup_interval is None:
                continue
            low, high = row.speedup_interval
            print(f"{run + 1}: {row.runtime} {row.speedup_same_runtime:.3f}x [{low:.3f}, {high:.3f}] {row.verdict}")
            sys.stdout.flush()
            total += 1
            equal += row.verdict == "no measurable difference"
    return total, equal


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path, default=embedded_student())
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--runtime", default="torch")
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--side", type=int, default=48)
    parser.add_argument("--busy", action="store_true")
    options = parser.parse_args()
    with busy_machine((usable_cores() or 1) if options.busy else 0):
        total, equal = count_none(
            options.model, options.runs, tuple(options.runtime.split(",")), options.seconds, options.side
        )
    print(f"no measurable difference: {equal} of {total}")


if __name__ == "__main__":
    main()
