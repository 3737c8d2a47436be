"""How often `srkd profile` tells a model from itself: `python -m benchmarks profile_itself`.

Both rows of a profile are processes of their own with the same file. With --busy the same runs are repeated beside as
many programs that never wait as there are cores.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.evidence import Benchmark, Cell, Column, Row, Table, save
from compressor.assets import embedded_student
from compressor.base.machine import usable_cores
from export.profile.report import ProfileReport, profile_models
from export.profile.settings import ProfileSettings

BENCHMARK = Benchmark(
    "How often does a profile see a difference between a model and itself?",
    minutes=5,
    arguments=("--busy",),
    small=("--runs", "1", "--seconds", "0.1", "--side", "16", "--busy"),
)

BUSY = "import itertools\nfor _ in itertools.count(): pass"
NONE = "no measurable difference"
SUMMARY = (
    Column("programs", "busy programs started beside it"),
    Column("verdicts", "verdicts"),
    Column("none", NONE),
    Column("least", "least speed-up", ".3f"),
    Column("most", "most", ".3f"),
)
VERDICTS = (
    Column("programs", "busy programs started beside it"),
    Column("runtime", "runtime"),
    Column("speedup", "speed-up", ".3f"),
    Column("low", "from", ".3f"),
    Column("high", "to", ".3f"),
    Column("verdict", "verdict"),
)


@contextmanager
def busy_machine(programs: int) -> Iterator[None]:
    """Keep this many busy programs running in the context."""
    running = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(programs)]
    try:
        yield
    finally:
        for program in running:
            program.kill()
            program.wait()


def profile_itself(model: Path, runtimes: tuple[str, ...], seconds: float, side: int) -> ProfileReport:
    """Profile a model with itself as the teacher."""
    settings = ProfileSettings(
        runtimes=runtimes, lr_sizes=((side, side),), seconds=seconds, threads=1, memory=False, quality=False
    )
    return profile_models([model], teacher=model, settings=settings)


def verdicts(model: Path, runs: int, runtimes: tuple[str, ...], seconds: float, side: int) -> Iterator[dict[str, Cell]]:
    """Yield the verdict of each run on the model against itself, in each runtime."""
    for _ in range(runs):
        for row in profile_itself(model, runtimes, seconds, side).rows:
            if row.verdict == "reference" or row.speedup_interval is None:
                continue
            low, high = row.speedup_interval
            cells: dict[str, Cell] = {"runtime": row.runtime, "speedup": row.speedup_same_runtime}
            yield {**cells, "low": low, "high": high, "verdict": row.verdict}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path, default=embedded_student())
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--runtime", default="torch")
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--side", type=int, default=48)
    parser.add_argument("--busy", action="store_true", help="repeat the runs beside programs that never wait")
    options = parser.parse_args()
    runtimes = tuple(options.runtime.split(","))
    every: list[Row] = []
    for programs in (0, usable_cores() or 1) if options.busy else (0,):
        with busy_machine(programs):
            for row in verdicts(options.model, options.runs, runtimes, options.seconds, options.side):
                every.append({"programs": programs, **row})
                print(every[-1], file=sys.stderr, flush=True)
    side = options.side
    save("profile_itself", tables(every, f"{options.model.stem}, LR {side}x{side}, one thread, {options.seconds:g} s."))
    return 0


def tables(every: Sequence[Mapping[str, Cell]], caption: str) -> dict[str, Table]:
    """Return a row for each number of busy programs, and all verdicts."""
    rows: list[Row] = []
    for programs in dict.fromkeys(row["programs"] for row in every):
        of_these = [row for row in every if row["programs"] == programs]
        speedups = [float(row["speedup"] or 0) for row in of_these]
        none = sum(row["verdict"] == NONE for row in of_these)
        cells: dict[str, Cell] = {"programs": programs, "verdicts": len(of_these), "none": none}
        rows.append({**cells, "least": min(speedups), "most": max(speedups)})
    return {"summary": Table(SUMMARY, rows, caption), "verdicts": Table(VERDICTS, every)}


if __name__ == "__main__":
    sys.exit(main())
