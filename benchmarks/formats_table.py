"""Which network can be had in which format: `python -m benchmarks formats_table`.

Each network is exported to each format that is installed, compared with the network as by `srkd export`, opened and
timed against torch, all in turns. A format that refuses a network for any size is tried for one size. Rows of formats
that are not installed are copied from the last result. `--format NAME` measures only these. Formats in eight bits are
a question of their own, `int8_formats`: what they lose depends on trained weights.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import torch

from benchmarks.embedded_student import embedded_student
from benchmarks.evidence import Benchmark, Column, Row, Table, find_result, results_folder, save
from compressor.base.context import no_progress
from compressor.images.sample import sample_photo
from compressor.inference.open import open_model
from compressor.models.checkpoints.load import load_checkpoint
from compressor.models.networks.base import Network, Spec
from compressor.models.networks.carn import CARNSpec
from compressor.models.networks.carn_m import CARNMSpec
from compressor.models.networks.compact import CompactSpec
from compressor.models.networks.rcan import RCANSpec
from compressor.models.networks.registry import build
from compressor.models.networks.swinir import SwinIRSpec
from compressor.runtimes.torch_runtime import TorchRuntime
from export.formats.conversion import FileOptions
from export.formats.table import FORMATS
from export.timing.turns import take_turns
from export.writing.exporting import FileReport, Source, export_model

BENCHMARK = Benchmark(
    "Which network can be had in which format, how near is the file, and how fast?",
    minutes=20,
    small=("--network", "Compact 8/32", "--format", "onnx", "--seconds", "0.1"),
)

SIDE = 64
"""Side in LR pixels of the timed images, and of files for one size."""

SPECS: Mapping[str, Spec | None] = {
    "EDSR 16/24": None,
    "RCAN 3/4/32": RCANSpec(width=32, groups=3, depth=4, hidden=4),
    "CARN 32": CARNSpec(width=32),
    "CARN-M 32": CARNMSpec(width=32),
    "Compact 8/32": CompactSpec(width=32, depth=8),
    "SwinIR 4/30": SwinIRSpec(width=30, depths=(2, 2), heads=(3, 3), features=32),
}
"""×4 networks of a student's size; None is the embedded student, the others have random weights."""

COLUMNS = (
    Column("network", "network"),
    Column("format", "format"),
    Column("verdict", "verdict"),
    Column("sizes", "sizes"),
    Column("megabytes", "MB", ".2f"),
    Column("difference", "largest difference", ".1e"),
    Column("psnr", "PSNR, dB", ".1f"),
    Column("runs_in", "runs in"),
    Column("ms", "ms", ".1f"),
    Column("over_torch", "over torch", ".2f"),
)
EAGER = "torch eager"
IN_FLOAT = [name for name, row in FORMATS.items() if row.precision != "int8" and row.check_seconds is None]
"""Without shaders: they hold two networks, and their speed is that of a player on its GPU."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--format", action="append", choices=IN_FLOAT, help="measure these and keep the others")
    parser.add_argument("--network", action="append", choices=list(SPECS), help="measure these and keep the others")
    parser.add_argument("--seconds", type=float, default=2.0, help="of timing, for each file")
    options = parser.parse_args()
    formats = [name for name in options.format or IN_FLOAT if FORMATS[name].missing_requirement() is None]
    rows = last_rows()
    for name in options.network or SPECS:
        rows |= {(name, str(row["format"])): row for row in measured(name, network_of(name), formats, options.seconds)}
    save("formats_table", table(rows))


def last_rows() -> dict[tuple[str, str], Row]:
    """Return the rows of the last result."""
    last = find_result("formats_table", results_folder())
    return {} if last is None else {(str(row["network"]), str(row["format"])): row for row in last.tables[""].rows}


def network_of(name: str) -> Network:
    spec = SPECS[name]
    return load_checkpoint(embedded_student()).network if spec is None else build(spec, seed=0)


def measured(name: str, network: Network, formats: Sequence[str], seconds: float) -> list[Row]:
    """Return the rows of one network in all formats: exported, then timed in turns with torch."""
    lr = sample_photo(SIDE, SIDE, channels=network.descriptor.channels)
    torch_runtime = TorchRuntime(network, label=name)
    with tempfile.TemporaryDirectory(prefix="srkd-formats-") as folder:
        reports = {row: exported(network, row, Path(folder) / row) for row in formats}
        runtimes = {
            row: open_model(report.path)
            for row, report in reports.items()
            if report.path is not None and report.verdict == "passed"
        }
        calls = [partial(runtime.run, lr) for runtime in (torch_runtime, *runtimes.values())]
        reference, *timings = take_turns(calls, seconds_each=seconds, progress=no_progress)
    eager = reference.percentile(50)
    first = {"network": name, "format": EAGER, "verdict": "reference", "sizes": "any"}
    rows: list[Row] = [{**first, "runs_in": "torch, fp32", "ms": eager, "over_torch": 1.0}]
    milliseconds = {row: timing.percentile(50) for row, timing in zip(runtimes, timings, strict=True)}
    for row, report in reports.items():
        runs_in = f"{runtimes[row].name}, {runtimes[row].precision}" if row in runtimes else None
        rows.append(row_of(name, report, runs_in, milliseconds.get(row), eager))
        print(rows[-1], file=sys.stderr, flush=True)
    return rows


def exported(network: Network, row: str, folder: Path) -> FileReport:
    """Return the report of an export for any size, or for one size if that is refused."""
    (report,) = export_model(network, Source("model"), [row], folder).files
    if report.path is None and report.verdict == "unavailable":
        one_size = FileOptions(lr_size=(SIDE, SIDE))
        (fixed,) = export_model(network, Source("model"), [row], folder, options=one_size).files
        report = fixed if fixed.path is not None else report
    return report


def row_of(name: str, report: FileReport, runs_in: str | None, ms: float | None, eager: float) -> Row:
    row = {"network": name, "format": report.format}
    if report.path is None:
        return {**row, "verdict": f"no: {report.reason}".replace("|", "/")}
    parity = report.parity
    return {
        **row,
        "verdict": "works" if report.verdict == "passed" else report.verdict,
        "sizes": f"{SIDE}x{SIDE} only" if f"-{SIDE}x{SIDE}" in report.path.name else "any",
        "megabytes": (report.bytes or 0) / 1e6,
        "difference": None if parity is None else parity.max_abs,
        "psnr": None if parity is None else "equal" if parity.psnr is None else parity.psnr,
        "runs_in": runs_in,
        "ms": ms,
        "over_torch": None if ms is None else eager / ms,
    }


def table(rows: Mapping[tuple[str, str], Row]) -> Table:
    """Return the rows in the order of networks and formats."""
    ordered = [rows[name, row] for name in SPECS for row in (EAGER, *IN_FLOAT) if (name, row) in rows]
    untested = ", ".join(f"`--{row.name}`" for row in (FORMATS[name] for name in IN_FLOAT) if not row.tested)
    caption = (
        f"Students at x4; time of one photo of {SIDE}x{SIDE}, {torch.get_num_threads()} thread(s), the median of files "
        f"and torch taking turns. Not run by us: {untested}."
    )
    return Table(COLUMNS, ordered, caption)
