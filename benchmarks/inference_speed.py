"""A student beside its teacher in use: `python -m benchmarks.inference_speed [--teacher SPEC] [--student SPEC]`.

Random weights, as time does not depend on them. Runtimes take turns on one image: eager torch (the network called as it
is, fp32), srkd's torch runtime in fp32 and bf16, and ONNX Runtime in fp32. Beside each time stands the share of what
this machine's matrix products reach in that precision, measured in the same minute on matrices of 2,048 a side.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch.nn import functional as F

import srkd
from benchmarks.training_speed import ratio
from compressor.base.machine import cpu_model
from compressor.base.memory import keep_freed_memory
from compressor.inference.open import open_model
from compressor.models.cost import cost
from compressor.models.networks.base import Network
from compressor.models.networks.registry import build
from compressor.models.students import parse_student
from compressor.runtimes.table import OpenOptions
from compressor.runtimes.torch_runtime import TorchRuntime

MATRIX, SIDE = 1024, 64
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default="edsr:width=256,depth=32,scale=4,res_scale=0.1")
    parser.add_argument("--student", default="edsr:width=64,depth=32,scale=4,res_scale=0.1")
    parser.add_argument("--side", type=int, default=96, help="of the LR image")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    keep_freed_memory()
    networks = {name: build(parse_student(getattr(options, name)), seed=1).eval() for name in ("teacher", "student")}
    lr = torch.rand(1, 3, options.side, options.side, generator=torch.Generator().manual_seed(0))
    macs = {name: cost(network.spec, (options.side, options.side)).macs for name, network in networks.items()}
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        ways = {name: ways_of(network, name, Path(folder), lr) for name, network in networks.items()}
        seconds = in_turns(ways, options.rounds)
    rates = {precision: matrix_rate(dtype) for precision, dtype in DTYPES.items()}
    conditions = f"{cpu_model()}, {torch.get_num_threads()} thread(s), torch {torch.__version__}"
    print(f"{conditions}; LR {options.side}x{options.side}, median and range of {options.rounds} rounds")
    for name in networks:
        print(f"{name}: {getattr(options, name)}, {macs[name] / 1e9:.1f} G MACs")
    columns = ("runtime", "teacher, ms", "of the matrix rate", "student, ms", "of the matrix rate", "faster")
    print(f"\n| {' | '.join((*columns, 'than the eager teacher'))} |\n|{'---|' * 7}")
    eager = seconds["teacher"]["eager torch, fp32"]
    for way in ways["teacher"]:
        theirs, ours = seconds["teacher"][way], seconds["student"][way]
        rate = rates["bf16" if "bf16" in way else "fp32"]
        cells = []
        for name, times in (("teacher", theirs), ("student", ours)):
            middle = statistics.median(times)
            cells += [f"{1e3 * middle:.1f}", f"{2 * macs[name] / middle / rate:.0%}"]
        print(f"| {way} | {' | '.join(cells)} | {ratio(theirs, ours, 1)} | {ratio(eager, ours, 1)} |")
    return 0


def ways_of(network: Network, name: str, folder: Path, lr: torch.Tensor) -> dict[str, Callable[[], object]]:
    """Return a call of the network in each runtime."""
    checkpoint = folder / f"{name}.safetensors"
    srkd.save(network, checkpoint)
    exported = srkd.export(checkpoint, out=folder / name).files[0].path
    assert exported is not None
    runtimes = {
        f"srkd, torch {precision}": TorchRuntime(network, label=name, precision=precision) for precision in DTYPES
    }
    onnx = open_model(exported, OpenOptions())
    calls: dict[str, Callable[[], object]] = {"eager torch, fp32": lambda: network(lr)}
    calls |= {title: partial(runtime.run, lr) for title, runtime in runtimes.items()}
    return calls | {"ONNX Runtime, fp32": lambda: onnx.run(lr)}


def in_turns(ways: dict[str, dict[str, Callable[[], object]]], rounds: int) -> dict[str, dict[str, list[float]]]:
    """Seconds of each way, teacher and student one after the other; the first round warms up."""
    seconds: dict[str, dict[str, list[float]]] = {name: {way: [] for way in calls} for name, calls in ways.items()}
    for _ in range(rounds + 1):
        for way in ways["teacher"]:
            for name, calls in ways.items():
                repeats = 1 if name == "teacher" else 5
                started = time.perf_counter()
                for _ in range(repeats):
                    calls[way]()
                seconds[name][way].append((time.perf_counter() - started) / repeats)
    return {name: {way: times[1:] for way, times in one.items()} for name, one in seconds.items()}


def matrix_rate(dtype: torch.dtype) -> float:
    """Return the operations a second of a large matrix product, the best of several.

    As a convolution of 1x1: it goes to the library that the networks' convolutions go to, which may not be that of `@`.
    """
    one = torch.rand(1, MATRIX, SIDE, SIDE, dtype=dtype).to(memory_format=torch.channels_last)
    other = torch.rand(MATRIX, MATRIX, 1, 1, dtype=dtype)
    times = []
    for _ in range(8):
        started = time.perf_counter()
        F.conv2d(one, other)
        times.append(time.perf_counter() - started)
    return 2 * MATRIX**2 * SIDE**2 / min(times)


if __name__ == "__main__":
    sys.exit(main())
