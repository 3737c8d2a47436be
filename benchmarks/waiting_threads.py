"""How long waiting threads should spin: `python -m benchmarks waiting_threads`.

Each row is measured in processes of their own, whose OpenMP threads spin as long as torch lets them, 1,000 times (what
srkd sets) or not at all, beside no, one and two programs that never wait. Two networks and a training step, in turns,
on two threads. It takes all cores: nothing else should run.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence

from benchmarks.evidence import ROOT, Benchmark, Cell, Column, Row, Table, save
from benchmarks.profile_itself import busy_machine

BENCHMARK = Benchmark(
    "How long should threads spin that wait, alone and beside other programs?",
    minutes=8,
    small=("--processes", "1", "--seconds", "0.5", "--programs", "0"),
)

SPINS: Mapping[str, Mapping[str, str]] = {
    "default": {},
    "1000": {"GOMP_SPINCOUNT": "1000"},
    "0": {"OMP_WAIT_POLICY": "PASSIVE"},
}
"""Environment variables of a process. Torch is imported before srkd, which then does not set the spin count."""
CHILD = "import sys, torch; from benchmarks.waiting_threads import measure; measure(*map(float, sys.argv[1:]))"
SIDE = 64
COLUMNS = (
    Column("programs", "busy programs"),
    Column("spins", "spins"),
    Column("student", "EDSR 16/24 ×4, ms", ".1f"),
    Column("teacher", "EDSR 16/48 ×4, ms", ".1f"),
    Column("step", "a training step of EDSR 16/24, ms", ".0f"),
    Column("slowest", "the step's slowest process, ms", ",.0f"),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", default="0,1,2", help="busy programs beside it, with commas between")
    parser.add_argument("--processes", type=int, default=3, help="of each row")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each process")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    rows: list[Row] = []
    for programs in map(int, options.programs.split(",")):
        for spins, environment in SPINS.items():
            with busy_machine(programs):
                runs = [in_child(environment, options.threads, options.seconds) for _ in range(options.processes)]
            rows.append(row(programs, spins, runs))
            print(rows[-1], file=sys.stderr, flush=True)
    caption = (
        f"{options.threads} threads, LR {SIDE}×{SIDE}, the median of {options.processes} process(es) of the median of "
        "their calls in turns; 0 spins is OMP_WAIT_POLICY=PASSIVE."
    )
    save("waiting_threads", Table(COLUMNS, rows, caption), threads=options.threads)
    return 0


def in_child(variables: Mapping[str, str], threads: int, seconds: float) -> dict[str, float]:
    """Return the measurement of a child process with these environment variables."""
    here = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(threads), str(seconds)],
        cwd=ROOT,
        env={**here, **variables, "OMP_NUM_THREADS": str(threads)},
        capture_output=True,
        text=True,
        check=True,
    )
    milliseconds: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return milliseconds


def measure(threads: float, seconds: float) -> None:
    """Print the median milliseconds of each call, which take turns for `seconds`; runs in the child process."""
    import torch
    from torch.nn import functional as F

    from compressor.assets import embedded_student, embedded_teacher
    from compressor.inference.open import open_model
    from compressor.models.checkpoints.load import load_checkpoint
    from compressor.runtimes.table import OpenOptions

    torch.set_num_threads(int(threads))
    student, teacher = (
        open_model(file, OpenOptions(threads=int(threads), trusted=True))
        for file in (embedded_student(), embedded_teacher())
    )
    network = load_checkpoint(embedded_student()).network.train()
    lr = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-4)

    def step() -> None:
        sr = network(lr)
        optimiser.zero_grad()
        F.l1_loss(sr, torch.zeros_like(sr)).backward()  # type: ignore[no-untyped-call]
        optimiser.step()

    calls: dict[str, Callable[[], object]] = {
        "student": lambda: student.run(lr),
        "teacher": lambda: teacher.run(lr),
        "step": step,
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times["step"]) < 3:
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            times[name].append(1e3 * (time.perf_counter() - began))
    # The first turn warms up and does not count.
    print(json.dumps({name: statistics.median(each[1:]) for name, each in times.items()}))


def row(programs: int, spins: str, runs: Sequence[Mapping[str, float]]) -> Row:
    """Return the row: medians over the processes, the slowest step, and the step's time in each process."""
    cells: dict[str, Cell] = {"programs": programs, "spins": spins}
    cells |= {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    cells["slowest"] = max(run["step"] for run in runs)
    return cells | {f"step, process {number}": run["step"] for number, run in enumerate(runs, 1)}


if __name__ == "__main__":
    sys.exit(main())
