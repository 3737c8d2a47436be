"""`srkd profile`: how fast, how large, how good, against the teacher."""

from __future__ import annotations

from typing import TYPE_CHECKING

from srkd.console import Console, cell
from srkd.verb import verb
from srkd.verb_options import ProfileOptions

if TYPE_CHECKING:
    from export.profile.report import ProfileReport, Row


@verb(
    "profile",
    ProfileOptions,
    examples=(
        "srkd profile runs/first",
        "srkd profile student.onnx other.onnx --teacher edsr.pt --lr-size 320x180 --threads 1",
        "srkd profile runs/first --runtime onnxruntime --json",
    ),
)
def command(console: Console, options: ProfileOptions) -> None:
    """Time MODELs against their teacher; cost, memory and quality.

    MODEL is a checkpoint, a run folder or an exported file. The teacher of a single run folder is the one it
    was distilled from.
    """
    from srkd.api import run_profile

    with console.context() as context:
        report = run_profile(options, context)
    console.report("profile", report, show)


def show(console: Console, report: ProfileReport) -> None:
    """Print, for each size, cost and quality of each model, then its speed under each runtime."""
    for size in dict.fromkeys(row.lr_size for row in report.rows):
        rows = [row for row in report.rows if row.lr_size == size]
        _show_models(console, report, rows)
        _show_speed(console, rows)
    for note in report.notes:
        console.warn(note)
    console.detail(f"memory: {report.memory_method}")


def _show_models(console: Console, report: ProfileReport, rows: list[Row]) -> None:
    psnr_y = {item.model: item.psnr_y for item in report.quality}
    over_bicubic = {item.model: item.over_bicubic for item in report.quality}
    lines = [
        [
            f"{model} (teacher)" if model == report.teacher else model,
            cell(row.params, "{:,}"),
            "-" if row.macs is None else f"{row.macs / 1e9:.2f}",
            cell(psnr_y.get(model), "{:.3f}"),
            cell(over_bicubic.get(model), "{:+.3f}"),
        ]
        for model, row in {row.model: row for row in rows}.items()
    ]
    title = f"LR {rows[0].lr_size}; PSNR-Y on the embedded validation photos, {report.protocol}"
    console.table(["model", "params", "GMAC", "PSNR-Y dB", "over bicubic"], lines, title=title)


def _show_speed(console: Console, rows: list[Row]) -> None:
    first = rows[0]
    lines = [
        [
            row.model,
            row.runtime,
            row.precision,
            f"{row.latency_ms.p50:.1f}",
            f"±{row.spread_percent / 2:.0f}%",
            f"{row.fps:.2f}",
            cell(row.peak_memory_mb, "{:.0f}"),
            cell(row.speedup_same_runtime, "{:.2f}x"),
            cell(row.speedup_vs_teacher_eager, "{:.2f}x"),
            row.verdict or "-",
        ]
        for row in rows
    ]
    speed = ["ms", "spread", "FPS", "MB", "speed-up", "over eager teacher"]
    title = f"LR {first.lr_size}, batch {first.batch}, {first.device}, {first.threads} threads; speed-up: same runtime"
    console.table(["model", "runtime", "precision", *speed, "verdict"], lines, title=title)
