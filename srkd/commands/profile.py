"""`srkd profile`: how fast, how large, how good, against the teacher."""

from __future__ import annotations

from typing import TYPE_CHECKING

from srkd.console import Console
from srkd.verb import verb
from srkd.verb_options import ProfileOptions

if TYPE_CHECKING:
    from export.profile.report import ProfileReport, Row

EPILOG = """Examples:

\b
  srkd profile runs/first
  srkd profile student.onnx other.onnx --teacher edsr.pt --lr-size 320x180 --threads 1
  srkd profile runs/first --runtime onnxruntime --json
"""


@verb("profile", ProfileOptions, epilog=EPILOG)
def command(console: Console, options: ProfileOptions) -> None:
    """Time MODELs against their teacher; cost, memory and quality.

    MODEL is a checkpoint, a run folder or an exported file. The teacher of a single run folder is the one it
    was distilled from.
    """
    from srkd.api import run_profile

    with console.context() as context:
        report = run_profile(options, context)
    if console.wants_json:
        console.emit("profile", report)
    else:
        show(console, report)


def show(console: Console, report: ProfileReport) -> None:
    """Print, for each size, cost and quality of each model, then its speed under each runtime."""
    for size in dict.fromkeys(row.lr_size for row in report.rows):
        rows = [row for row in report.rows if row.lr_size == size]
        show_models(console, report, rows)
        show_speed(console, rows)
    for note in report.notes:
        console.warn(note)
    console.detail(f"memory: {report.memory_method}")


def show_models(console: Console, report: ProfileReport, rows: list[Row]) -> None:
    """Print a row for each model: cost and quality."""
    scores = {item.model: item for item in report.quality}
    lines = []
    for model, row in {row.model: row for row in rows}.items():
        name = f"{model} (teacher)" if model == report.teacher else model
        cells = [name, _count(row.params), "-" if row.macs is None else f"{row.macs / 1e9:.2f}"]
        item = scores.get(model)
        cells += ["-" if item is None or item.psnr_y is None else f"{item.psnr_y:.3f}"]
        cells += ["-" if item is None or item.over_bicubic is None else f"{item.over_bicubic:+.3f}"]
        lines.append(cells)
    title = f"LR {rows[0].lr_size}; PSNR-Y on the embedded validation photos, {report.protocol}"
    console.table(["model", "params", "GMAC", "PSNR-Y dB", "over bicubic"], lines, title=title)


def show_speed(console: Console, rows: list[Row]) -> None:
    """Print a row for each model and runtime: speed and memory."""
    first = rows[0]
    lines = [
        [
            row.model,
            row.runtime,
            row.precision,
            f"{row.latency_ms.p50:.1f}",
            f"±{row.spread_percent / 2:.0f}%",
            f"{row.fps:.2f}",
            "-" if row.peak_memory_mb is None else f"{row.peak_memory_mb:.0f}",
            _format_factor(row.speedup_same_runtime),
            _format_factor(row.speedup_vs_teacher_eager),
            row.verdict or "-",
        ]
        for row in rows
    ]
    columns = [
        "model",
        "runtime",
        "precision",
        "ms",
        "spread",
        "FPS",
        "MB",
        "speed-up",
        "over eager teacher",
        "verdict",
    ]
    title = f"LR {first.lr_size}, batch {first.batch}, {first.device}, {first.threads} threads; speed-up: same runtime"
    console.table(columns, lines, title=title)


def _count(number: int | None) -> str:
    return "-" if number is None else f"{number:,}"


def _format_factor(factor: float | None) -> str:
    return "-" if factor is None else f"{factor:.2f}x"
