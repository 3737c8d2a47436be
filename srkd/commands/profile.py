"""`srkd profile`: how fast, how large, how good, against the teacher."""

from __future__ import annotations

from typing import TYPE_CHECKING

from srkd.console import Console, Records, cell
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
        "srkd profile runs/first --runtime onnxruntime --csv > speed.csv",
        "srkd profile student.safetensors --precision int8 --threads 1",
    ),
    csv=True,
)
def command(console: Console, options: ProfileOptions) -> None:
    """Time MODELs against their teacher; cost, memory and quality.

    MODEL is a checkpoint, a run folder or an exported file. The teacher of a single run folder is the one it
    was distilled from.
    """
    from srkd.api import run_profile

    with console.context() as context:
        report = run_profile(options, context)
    console.report("profile", report, show, records)


def records(report: ProfileReport) -> Records:
    """Return a row of values for each model under each runtime at each size."""
    costs, quality = {item.model: item for item in report.costs}, {item.model: item for item in report.quality}
    rows: list[dict[str, object]] = []
    for row in report.rows:
        score = quality.get(row.model)
        rows.append(
            {
                "model": row.model,
                "is_teacher": row.model == report.teacher,
                "runtime": row.runtime,
                "device": row.device,
                "precision": row.precision,
                "lr_size": row.lr_size,
                "batch": row.batch,
                "threads": row.threads,
                "params": row.params,
                "macs_at_256x256": costs[row.model].macs,
                "psnr_y_db": None if score is None else score.psnr_y,
                "over_bicubic_db": None if score is None else score.over_bicubic,
                **{f"latency_{name}_ms": value for name, value in vars(row.latency_ms).items()},
                "spread_percent": row.spread_percent,
                "fps": row.fps,
                "peak_memory_mb": row.peak_memory_mb,
                "speedup_same_runtime": row.speedup_same_runtime,
                "speedup_vs_teacher_eager": row.speedup_vs_teacher_eager,
                "verdict": row.verdict,
                "int8_bounded": None if row.int8 is None else row.int8.bounded,
                "int8_drop_db": None if row.int8 is None else row.int8.drop_db,
                "nodes": None if row.int8 is None else row.int8.nodes,
                "nodes_in_int8": None if row.int8 is None else row.int8.nodes_in_int8,
            }
        )
    return rows


def show(console: Console, report: ProfileReport) -> None:
    """Print cost and quality of each model, then for each size its speed under each runtime."""
    _show_models(console, report)
    for size in dict.fromkeys(row.lr_size for row in report.rows):
        _show_speed(console, [row for row in report.rows if row.lr_size == size])
    for line in report.about_int8:
        console.result(line)
    for note in report.notes:
        console.warn(note)
    console.detail(f"memory: {report.memory_method}")


def _show_models(console: Console, report: ProfileReport) -> None:
    psnr_y = {item.model: item.psnr_y for item in report.quality}
    over_bicubic = {item.model: item.over_bicubic for item in report.quality}
    lines = [
        [
            f"{cost.model} (teacher)" if cost.model == report.teacher else cost.model,
            cell(cost.params, "{:,}"),
            "-" if cost.macs is None else f"{cost.macs / 1e9:.2f}",
            cell(psnr_y.get(cost.model), "{:.3f}"),
            cell(over_bicubic.get(cost.model), "{:+.3f}"),
        ]
        for cost in report.costs
    ]
    title = f"PSNR-Y on the embedded validation photos, {report.protocol}"
    console.table(["model", "params", "GMAC at 256x256", "PSNR-Y dB", "over bicubic"], lines, title=title)


def _show_speed(console: Console, rows: list[Row]) -> None:
    first, precisions = rows[0], {row.arithmetic for row in rows}
    lines = [
        [
            row.model,
            row.runtime if len(precisions) == 1 else f"{row.runtime} {row.arithmetic}",
            f"{row.latency_ms.p50:.1f} ±{row.spread_percent / 2:.0f}%",
            f"{row.fps:.2f}",
            cell(row.peak_memory_mb, "{:.0f}"),
            ", ".join(text for text in (cell(row.speedup_same_runtime, "{:.2f}x"), row.verdict) if text),
            cell(row.speedup_vs_teacher_eager, "{:.2f}x"),
        ]
        for row in rows
    ]
    precision = f", {first.arithmetic}" if len(precisions) == 1 else ""
    title = f"LR {first.lr_size}, batch {first.batch}{precision}, {first.device}, {first.threads} threads"
    speed = ["ms", "FPS", "MB", "speed-up in its runtime", "over eager teacher"]
    console.table(["model", "runtime", *speed], lines, title=title)
