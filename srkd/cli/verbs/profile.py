"""`srkd profile`: speed, size and quality of models, compared with the teacher."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compressor.base.machine import count_threads
from srkd.cli.verb import verb
from srkd.options.verbs import ProfileOptions
from srkd.terminal.console import Console, cell, count_cells
from srkd.terminal.tables import Table

if TYPE_CHECKING:
    from compressor.base.choices import Goal
    from export.profile.report import ProfileReport, ProfileRow


@verb(
    "profile",
    ProfileOptions,
    "srkd.api.profile.run_profile",
    examples=(
        "srkd profile runs/first",
        "srkd profile student.onnx other.onnx --teacher edsr.pt --lr-size 320x180 --threads 1",
        "srkd profile runs/first --runtime onnxruntime --csv > speed.csv",
        "srkd profile student.safetensors --runtime all --precision fp32,bf16,int8 --threads 1",
        "srkd profile runs/first --runtime all --pareto pareto.png",
    ),
    rows=lambda report: [{**vars(row), "quality": report.quality_of(row), "goal": report.goal} for row in report.rows],
)
def command(console: Console, report: ProfileReport) -> None:
    """Time MODELs beside their teacher, with cost, memory and quality.

    MODEL is a checkpoint, a run folder or an exported file. The teacher of a single run folder is the one that it
    was distilled from. Each row runs in its own process, and all take turns. docs/use/profile.md explains the columns.
    """
    _show_models(console, report)
    for size, batch in dict.fromkeys((row.lr_size, row.batch) for row in report.rows):
        rows = [row for row in report.rows if (row.lr_size, row.batch) == (size, batch)]
        _show_speed(console, rows)
    for line in report.about_int8:
        console.result(line)
    for lost in report.lost:
        where = f"{lost.model} under {lost.runtime} {lost.precision} at {lost.lr_size}, batch {lost.batch}"
        console.warn(f"{where} is not measured: {lost.reason}")
    for note in report.notes:
        console.warn(note)
    for conditions in report.conditions:
        load = "unknown" if conditions.load_before is None else f"{conditions.load_before:.2f}"
        versions = ", ".join(f"{name} {version}" for name, version in conditions.versions.items())
        console.detail(
            f"{conditions.date}, {conditions.cpu}, {conditions.usable_cores} cores, governor "
            f"{conditions.governor or 'unknown'}, load {load} before and {conditions.busy_cores:.2f} cores of others "
            f"meanwhile; {versions}"
        )
    console.detail(f"memory: {report.memory_method}")


def _show_models(console: Console, report: ProfileReport) -> None:
    """Print a line for each model, and one for each further precision whose quality is known."""
    from compressor.images.scores import GOAL_WORDS, both_goals

    goals = both_goals(report.goal)
    shown: list[Goal] = [goal for goal in goals if any(row.scores.by(goal) is not None for row in report.quality)]
    shown = shown or ["original"]
    lines = []
    for cost in report.costs:
        name = f"{cost.model} (teacher)" if cost.model == report.teacher else cost.model
        counts = count_cells(cost.params, cost.macs)
        scores = [item for item in report.quality if item.model == cost.model]
        for score in scores:
            of_file = f", {score.runtime}" if score.precision == "int8" else ""
            precision = "" if len(scores) == 1 else f" {score.precision}{of_file}"
            first, *others = (cell(score.scores.by(goal), "{:.3f}") for goal in shown)
            lines.append([f"{name}{precision}", *counts, first, cell(score.over_bicubic, "{:+.3f}"), *others])
            counts = "", ""
        if not scores:
            lines.append([name, *counts, *["-"] * (1 + len(shown))])
    plain = " or ".join(sorted({row.model for row in report.quality if row.runtime is None})) or "bicubic"
    title = f"PSNR-Y on the embedded validation photos, {report.protocol}"
    figures = [f"dB {GOAL_WORDS[goal]}" for goal in shown] if len(shown) > 1 else ["PSNR-Y dB"]
    columns = ["model", "params", "GMAC at 256x256", figures[0], f"over {plain}", *figures[1:]]
    console.table(Table(columns, lines, title))


def _show_speed(console: Console, rows: list[ProfileRow]) -> None:
    """Print times, memory and speed-ups, then slow percentiles and throughput."""
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
            f"{row.latency_ms.p95:.1f}",
            f"{row.latency_ms.p99:.1f}",
            f"{row.megapixels_per_second:.2f}",
            cell(row.gmacs_per_second, "{:.1f}"),
        ]
        for row in rows
    ]
    precision = f", {first.arithmetic}" if len(precisions) == 1 else ""
    title = f"LR {first.lr_size}, batch {first.batch}{precision}, {first.device}, {count_threads(first.threads)}"
    speed = ["ms", "FPS", "MB", "speed-up in its runtime", "over eager teacher"]
    throughput = ["p95 ms", "p99 ms", "MPixel/s", "GMAC/s"]
    console.table(Table(["model", "runtime", *speed, *throughput], lines, title, names=2))
