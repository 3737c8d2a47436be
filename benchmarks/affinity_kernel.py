"""FAKD's affinities by the kernel, by rows and whole: `python -m benchmarks affinity_kernel [--device cuda]`.

For value and gradient of one tap's unit columns, with all ways in turns: median milliseconds, peak GPU memory without
the columns, and the largest differences from fp64, for the gradient as a share of its largest entry. The kernel is
measured with products in fp32 ("ieee", as in runs) and by three products of tensor cores ("tf32x3"), if it can run.
`whole` stores A of all samples, as FAKD's code does; on the diagonal its gradient has the signs of rounding errors.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import torch

from benchmarks.evidence import Benchmark, Column, Row, Table, add_variant_option, save
from benchmarks.turns import in_turns
from recipes.methods.fakd import BLOCK_BYTES, distances_by_rows, kernel_for, rows_within, unit_columns

BENCHMARK = Benchmark(
    "Which way of making affinities is the fastest, and how exact is each?",
    minutes=8,
    small=("--shapes", "1x16x8x8", "--rounds", "1"),
)

SHAPES = "16x64x256x48,16x16x48x48,4x24x48x32,4x256x256x64"
Result: TypeAlias = tuple[torch.Tensor, torch.Tensor | None]
Way: TypeAlias = Callable[[], Result]
COLUMNS = (
    Column("shape", "shape"),
    Column("way", "way"),
    Column("ms", "ms", ",.2f"),
    Column("peak_mib", "peak, MiB", ",.0f"),
    Column("value", "value off by", ".1e"),
    Column("gradient", "gradient off by", ".1e"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default=SHAPES, help="samples x channels of student x of teacher x side, ...")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--busy", action="store_true", help="count processor seconds: for a CPU that does other things")
    add_variant_option(parser)
    options = parser.parse_args()
    device = torch.device(options.device)
    clock = time.process_time if options.busy else time.perf_counter
    rows = [row for shape in options.shapes.split(",") for row in rows_of(shape, options.rounds, device, clock)]
    place = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} thread(s)"
    caption = (
        f"{place}, the median of {options.rounds} rounds in turns{', processor time' if options.busy else ''}; shapes "
        "are samples x channels of student x of teacher x side."
    )
    save("affinity_kernel", Table(COLUMNS, rows, caption), variant=options.variant)


def rows_of(shape: str, rounds: int, device: torch.device, clock: Callable[[], float]) -> list[Row]:
    samples, student_channels, teacher_channels, side = map(int, shape.split("x"))
    noise = torch.Generator().manual_seed(0)
    student, teacher = (
        unit_columns(torch.randn(samples, channels, side, side, generator=noise).to(device))
        for channels in (student_channels, teacher_channels)
    )
    exact = distances_by_rows(student.double(), teacher.double(), True, rows=rows_within(BLOCK_BYTES, side**2))
    ways = ways_of(student, teacher)
    seconds = in_turns(ways, rounds, device=device, clock=clock)
    rows: list[Row] = []
    for name, way in ways.items():
        value, gradient = errors_of(way(), exact)
        rows.append(
            {
                "shape": shape,
                "way": name,
                "ms": 1e3 * statistics.median(seconds[name]),
                "peak_mib": peak_of(way, device),
                "value": value,
                "gradient": gradient,
            }
        )
        print(rows[-1], file=sys.stderr, flush=True)
    return rows


def ways_of(student: torch.Tensor, teacher: torch.Tensor) -> dict[str, Way]:
    rows = rows_within(BLOCK_BYTES, student.shape[2])
    ways: dict[str, Way] = {
        "whole": partial(distances_whole, student, teacher),
        "rows": partial(distances_by_rows, student, teacher, True, rows=rows),
    }
    if kernel_for(student) is not None:
        from recipes.terms.affinity_kernel import distances_by_kernel

        for precision in ("ieee", "tf32x3"):
            way = partial(distances_by_kernel, student, teacher, True, precision=precision)
            ways[f"kernel, {precision}"] = way
    return ways


def distances_whole(student: torch.Tensor, teacher: torch.Tensor) -> Result:
    """Return values and gradients by autograd through the whole matrix A."""
    with torch.enable_grad():
        student = student.detach().requires_grad_()
        difference = student.transpose(1, 2) @ student - teacher.transpose(1, 2) @ teacher
        means = difference.abs().mean((1, 2))
        (gradient,) = torch.autograd.grad(means.sum(), student)
    return means.detach(), gradient


def errors_of(actual: Result, exact: Result) -> tuple[float, float]:
    assert actual[1] is not None and exact[1] is not None
    value = float((actual[0] - exact[0]).abs().max())
    return value, float((actual[1] - exact[1]).abs().max() / exact[1].abs().max())


def peak_of(way: Way, device: torch.device) -> float | None:
    if device.type != "cuda":
        return None
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    way()
    return (torch.cuda.max_memory_allocated(device) - before) / 2**20
