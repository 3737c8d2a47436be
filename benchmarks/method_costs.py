"""The cost of a step of each method over that of logits: `python -m benchmarks method_costs [--methods a,b]`.

Time: steps of the method and of logits in turns, in one process. Multiply-accumulates: counted in one step, forward and
backward, of all networks. Memory: the peak of a separate process in two steps, less its memory before. A method whose
time ratio is over 1.3 times its ratio of multiply-accumulates is marked.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.evidence import Benchmark, Column, Row, Table, save
from benchmarks.methods import OPTIONS, TITLES, all_methods
from benchmarks.own_practice import OwnLoop
from benchmarks.turns import in_turns
from compressor.assets import embedded_teacher
from compressor.base.machine import peak_resident_bytes
from compressor.models.students.students import cut_student
from compressor.teachers.teacher import load_teacher

ROUNDS = 5
EXPLAINED = 1.3


BENCHMARK = Benchmark(
    "What does a step of each method cost?",
    minutes=20,
    small=("--methods", "fakd", "--batch", "2", "--lr-patch", "16"),
)
COLUMNS = (
    Column("method", "method"),
    Column("time", "time", ".2f"),
    Column("macs", "MACs", ".2f"),
    Column("explained", "time over MACs", ".2f"),
    Column("mark", ""),
    Column("memory", "memory", ".2f"),
    Column("published", "published hours", ".1f"),
)
PUBLISHED = {"fakd": 40.9, "lfd": 48.8, "ds": 25.7, "clsd": 30.2}
"""Hours of CLSD's table 6; how many steps each method took is not in our source."""
REMARK = (
    "Published: the hours that a whole run of EDSR 16/64 took in CLSD's table 6, in steps that our source does not "
    'state, without the 20.3 of the teacher of its rows "FAKD" and "LFD".'
)


@dataclass(frozen=True)
class Cost:
    """The cost of one step, as a multiple of a step of logits."""

    method: str
    time: float
    macs: float
    memory: float

    def row(self) -> Row:
        explained = self.time / self.macs
        mark = "" if explained <= EXPLAINED else "*"
        title = TITLES.get(self.method, self.method)
        return {
            "method": title,
            "time": self.time,
            "macs": self.macs,
            "explained": explained,
            "mark": mark,
            "memory": self.memory,
            "published": PUBLISHED.get(self.method),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default=",".join(all_methods()), help="names separated by commas; none: all")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr-patch", type=int, default=24)
    parser.add_argument("--width", type=float, default=0.5)
    parser.add_argument("--peak", metavar="METHOD", help="print the memory of two steps of METHOD and end")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.peak is not None:
        print(json.dumps(peak_of(options.peak, options)))
        return
    rows = []
    for name in options.methods.split(","):
        if name != "logits":
            rows.append(cost_of(name, options).row())
            print(rows[-1], file=sys.stderr, flush=True)
    caption = (
        f"Of a step, logits = 1: {torch.get_num_threads()} thread(s), fp32, the embedded teacher, a student of "
        f"{options.width:g} of its width, batch {options.batch}, patches of {options.lr_patch}. * takes over "
        f"{EXPLAINED:g} times what its multiply-accumulates explain. {REMARK}"
    )
    save("method_costs", Table(COLUMNS, rows, caption))


def loop_of(name: str, folder: Path, options: argparse.Namespace) -> OwnLoop:
    """Return a training loop of the method on the embedded photos, with a student cut from the embedded teacher."""
    teacher = load_teacher(embedded_teacher())
    network = teacher.require_network("weights")
    spec = network.spec.narrowed(options.width)
    return OwnLoop(
        spec,
        teacher,
        name,
        folder,
        batch=options.batch,
        lr_patch=options.lr_patch,
        device=torch.device("cpu"),
        settings=("schedule.precision=fp32", *OPTIONS.get(name, ())),
        student=cut_student(network, spec),
    )


def cost_of(name: str, options: argparse.Namespace) -> Cost:
    with tempfile.TemporaryDirectory() as folder:
        ours, logits = (loop_of(one, Path(folder) / one, options) for one in (name, "logits"))
        macs = counted(ours) / counted(logits)
        seconds = in_turns({"ours": partial(ours.run, 1), "logits": partial(logits.run, 1)}, ROUNDS)
    ratios = [mine / theirs for mine, theirs in zip(seconds["ours"], seconds["logits"], strict=True)]
    peaks = [measured_peak(one, options) for one in (name, "logits")]
    return Cost(name, statistics.median(ratios), macs, peaks[0] / peaks[1])


def counted(loop: OwnLoop) -> float:
    """Return the operations of one step, after a warm-up step."""
    loop.run(1)
    with FlopCounterMode(display=False) as counter:
        loop.run(1)
    return float(counter.get_total_flops())


def peak_of(name: str, options: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory() as folder:
        loop = loop_of(name, Path(folder) / name, options)
        before = psutil.Process().memory_info().rss
        loop.run(2)
        return peak_resident_bytes() - before


def measured_peak(name: str, options: argparse.Namespace) -> int:
    shape = ["--batch", options.batch, "--lr-patch", options.lr_patch, "--width", options.width]
    command = [sys.executable, "-m", "benchmarks", "method_costs", "--peak", name, *map(str, shape)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(json.loads(done.stdout))
