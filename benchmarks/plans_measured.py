"""Plans, and their students measured again: `python -m benchmarks plans_measured [--only edsr-64]`.

Five teachers × two runtimes × four frame rates. Each chosen student is written and timed again in a fresh process. Rows
are cached in --rows. The teachers are untrained, as weights do not change the time. One thread is used, unless
--threads says otherwise.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.evidence import Benchmark, Column, Rows, Table, save
from compressor.base.errors import SrkdError
from compressor.base.memory import keep_freed_memory
from compressor.models.checkpoints.save import save_network
from compressor.models.networks.base import Spec
from compressor.models.networks.carn import CARNSpec
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.rcan import RCANSpec
from compressor.models.networks.registry import build
from compressor.models.networks.swinir import SwinIRSpec
from compressor.models.students.students import parse_student
from export.plan.measure import Environment, measure_file, write_untrained
from export.plan.search import CandidateShape
from srkd.runs.planning import PlanReport
from srkd.terminal.console import json_value

BENCHMARK = Benchmark(
    "Do planned students meet their targets when they are measured again?",
    minutes=70,
    small=("--only", "edsr-64", "--most", "1", "--seconds", "0.1", "--rows", "runs/plans-small.json"),
)

TEACHERS: Mapping[str, Spec] = {
    "edsr-64": EDSRSpec(width=64, depth=16),
    "edsr-256": EDSRSpec(width=256, depth=32, res_scale=0.1),
    "rcan": RCANSpec(groups=4, depth=8),
    "carn": CARNSpec(),
    "swinir": SwinIRSpec(depths=(6, 6), heads=(6, 6)),
}
RUNTIMES = ("onnxruntime", "torch")
TARGETS = (2.0, 5.0, 12.0, 25.0)
"""Target frames per second, for LR images of 128x96 on one thread."""
SIZE = "128x96"
WITHIN = 0.10


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, default=Path("runs/plans.json"), help="where rows are kept")
    parser.add_argument("--only", default="", help="teachers by name, with commas between")
    parser.add_argument("--most", type=int, default=1000, help="plans to make in this call")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=0.5)
    options = parser.parse_args()
    options.rows.parent.mkdir(parents=True, exist_ok=True)
    rows, left = Rows(options.rows), options.most
    names = options.only.split(",") if options.only else list(TEACHERS)
    for teacher, runtime, fps in product(names, RUNTIMES, TARGETS):
        key = f"{teacher} {runtime} {fps:g}"
        left -= key not in rows.kept
        if left < 0:
            break
        rows.get(key, partial(one, teacher, runtime, fps, options.threads, options.seconds))
    save("plans_measured", table(rows.kept, options.threads), threads=options.threads)
    return 0


def one(teacher: str, runtime: str, fps: float, threads: int, seconds: float) -> dict[str, Any]:
    """Run one plan, and measure the chosen student again in a fresh process."""
    import srkd

    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, f"{teacher}.safetensors")
        save_network(build(TEACHERS[teacher], seed=0), file)
        words = {"runtime": runtime, "lr_size": SIZE, "threads": threads, "seconds": seconds, "quality": False}
        try:
            report = srkd.plan(file, target_fps=fps, progress=False, **words)  # type: ignore[arg-type]
        except SrkdError as error:
            return {"unreachable": str(error), "seconds": time.monotonic() - began}
    assert isinstance(report, PlanReport)
    chosen = report.chosen
    assert chosen.ms is not None and chosen.ms_interval is not None
    again = in_fresh_process({"chosen": json_value(chosen), "runtime": runtime, "threads": threads})
    return {
        "student": chosen.name,
        "planned_ms": chosen.ms,
        "interval": chosen.ms_interval,
        "again_ms": again["ms"],
        "again_interval": [again["low"], again["high"]],
        "target_ms": 1000 / fps,
        "seconds": time.monotonic() - began,
        "notes": report.notes,
    }


def in_fresh_process(job: Mapping[str, Any]) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.plans_measured", "--again", json.dumps(job)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(job["threads"])}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    answer: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return answer


def measure_again(job: Mapping[str, Any]) -> None:
    """Write the student, with random weights, time it and print the result; runs in the fresh process."""
    import torch

    torch.set_num_threads(job["threads"])
    keep_freed_memory()
    row = job["chosen"]
    spec = parse_student(row["student"])
    candidate = CandidateShape(spec.arch, row["width"], row["depth"], row["params"], row["macs"], row["student"])
    width, height = map(int, SIZE.split("x"))
    place = Environment(job["runtime"], "fp32", (width, height), threads=job["threads"])
    with tempfile.TemporaryDirectory() as folder:
        figures = measure_file(write_untrained(candidate, place, Path(folder)), place, seconds=10.0)
    print(json.dumps(vars(figures)))


def is_near(row: Mapping[str, Any]) -> bool:
    """Return whether the second time is within 10 % of the plan's, or in its interval."""
    low, high = row["interval"]
    return bool(abs(row["again_ms"] / row["planned_ms"] - 1) <= WITHIN or low <= row["again_ms"] <= high)


COLUMNS = (
    Column("key", "teacher, runtime, FPS"),
    Column("student", "student"),
    Column("planned_ms", "planned ms", ".1f"),
    Column("again_ms", "again ms", ".1f"),
    Column("target_ms", "target ms", ".1f"),
    Column("near", "near"),
    Column("met", "met"),
    Column("seconds", "s to plan and measure again", ".0f"),
)


def table(rows: Mapping[str, Mapping[str, Any]], threads: int) -> Table:
    """Return the table, with the numbers of plans that are near and that miss their target."""
    plans = {key: row for key, row in rows.items() if "student" in row}
    near = sum(map(is_near, plans.values()))
    missed = sum(row["again_ms"] > row["target_ms"] for row in plans.values())
    caption = (
        f"{threads} thread(s), LR {SIZE}, fp32. {len(plans)} plans, {len(rows) - len(plans)} out of reach: {near} "
        f"within {WITHIN:.0%} or their interval, {missed} miss their target when measured again."
    )
    cells = [
        {"key": key, "student": row["student"], "near": is_near(row), "met": row["again_ms"] <= row["target_ms"]}
        | {name: row[name] for name in ("planned_ms", "again_ms", "target_ms", "seconds")}
        for key, row in plans.items()
    ]
    cells += [{"key": key, "student": row["unreachable"]} for key, row in rows.items() if "unreachable" in row]
    return Table(COLUMNS, cells, caption)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--again"]:
        measure_again(json.loads(sys.argv[2]))
    else:
        sys.exit(main())
