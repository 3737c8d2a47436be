"""Eight bits in each runtime that has such files: `python -m benchmarks int8_formats [--model FILE] [--format NAME]`.

Each model is exported as by `srkd export`, within a loss of a tenth of a decibel. Rows have the loss on the embedded
validation photos, the PSNR to the network's images, and the time against the same network in float in that runtime, in
turns. Formats that are not installed are left out.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.evidence import Benchmark, Cell, Column, Row, Table, save
from compressor.assets import embedded_student
from compressor.base.machine import torch_threads
from compressor.models.checkpoints.load import load_checkpoint
from export.formats.conversion import FileOptions, Int8Options
from export.formats.table import FORMATS
from export.proof.speed import SIZE
from export.writing.exporting import FileReport, Source, export_model

BENCHMARK = Benchmark(
    "What do eight bits lose and gain in each runtime?",
    minutes=30,
    arguments=(
        *("--model", str(embedded_student()), "{checkpoints}/carn_m.pth"),
        "{checkpoints}/realesr-animevideov3_rezipped.pth",
    ),
    small=("--format", "openvino-int8"),
)

SCALE = 4
FILES = ("int8", "openvino-int8", "litert-int8", "executorch-int8")
COLUMNS = (
    Column("model", "network"),
    Column("file", "file"),
    Column("drop", "change of Y-PSNR", "+.3f"),
    Column("nearness", "dB to the network's images", ".1f"),
    Column("in_int8", "in eight bits"),
    Column("ms", "ms", ".0f"),
    Column("float_ms", "in float, ms", ".0f"),
    Column("speedup", "times as fast as float", ".2f"),
    Column("note", ""),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, nargs="+", default=[embedded_student()])
    parser.add_argument("--format", action="append", choices=FILES, help="measure these; none: all")
    parser.add_argument("--calibrate", type=Path, help="photos to calibrate on; none: the embedded ones")
    options = parser.parse_args()
    formats = [name for name in options.format or FILES if FORMATS[name].missing_requirement() is None]
    rows: dict[str, list[Row]] = {name: [] for name in formats}
    with torch_threads(1):
        for model in options.model:
            for name in formats:
                rows[name].append(row(model, exported(model, name, options.calibrate)))
                print(rows[name][-1], file=sys.stderr, flush=True)
    width, height = SIZE
    caption = f"×{SCALE}, LR {width}x{height}, one thread; Y-PSNR on the embedded validation photos."
    save("int8_formats", {name: table(of_format, caption) for name, of_format in rows.items()})


def exported(model: Path, name: str, photos: Path | None) -> FileReport:
    network = load_checkpoint(model, scale=None if model == embedded_student() else SCALE).network
    options = FileOptions(int8=Int8Options(calibrate=photos))
    with tempfile.TemporaryDirectory() as folder:
        files = export_model(network, Source(model.stem), [name], Path(folder), options=options).files
    return next(report for report in files if report.format == name)


def row(model: Path, report: FileReport) -> Row:
    """Return the row of a file: its loss and speed-up, or the reason why it was refused."""
    cells: dict[str, Cell] = {"model": model.stem, "file": f"`--{report.format}`"}
    if report.path is None or report.quality is None:
        return {**cells, "note": f"no: {report.reason}".replace("|", "/")}
    cells |= {"drop": -report.quality.drop, "nearness": report.quality.psnr_to_source, "in_int8": parts(report.facts)}
    if report.speed is not None:
        speed = report.speed
        cells |= {"ms": speed.ms, "float_ms": speed.float_ms, "speedup": speed.comparison.speedup}
        if cells["in_int8"] is None and speed.integer_nodes is not None:
            cells["in_int8"] = f"{speed.integer_nodes.nodes_in_int8} of {speed.integer_nodes.nodes} nodes"
    return cells


def parts(facts: Any) -> str | None:
    """Return how many operations of a file are in eight bits; None if the format does not count them."""
    if "in_int8" in facts:
        return f"{facts['in_int8']} of {facts['operations']} operations"
    if "int8_operations" in facts:
        count, other = (sum(facts[key].values()) for key in ("int8_operations", "float_operations"))
        return f"{count} of {count + other} operations"
    return None


def table(rows: Sequence[Row], caption: str) -> Table:
    """Return the table without empty columns."""
    return Table([column for column in COLUMNS if any(row.get(column.key) is not None for row in rows)], rows, caption)
