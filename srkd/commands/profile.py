"""`srkd profile`: how fast, how large, how good, against the teacher."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from compressor.inference.open import RUNTIMES
from srkd.console import Console
from srkd.parameters import DEVICE, SETTING, SIZES, names_of
from srkd.verb import verb

if TYPE_CHECKING:
    from export.profiling import ProfileReport, Row

EPILOG = """Examples:

\b
  srkd profile runs/first
  srkd profile student.onnx other.onnx --teacher edsr.pt --lr-size 320x180 --threads 1
  srkd profile runs/first --runtime onnxruntime --json
"""


@verb("profile", epilog=EPILOG)
@click.argument("models", metavar="MODEL...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--teacher", type=click.Path(path_type=Path), help="What all is compared with; none: the run folder's own."
)
@click.option(
    "--runtime",
    type=names_of(*RUNTIMES),
    default="torch,onnxruntime",
    show_default=True,
    help=f"Of {', '.join(RUNTIMES)}, separated by commas; checkpoints are exported for those that need it.",
)
@click.option("--device", type=DEVICE, default="cpu", show_default=True, help="Where the models run.")
@click.option(
    "--precision",
    type=click.Choice(["fp32", "bf16", "fp16"]),
    default="fp32",
    show_default=True,
    help="Of the arithmetic in torch and OpenVINO; of other files it lies in the file.",
)
@click.option("--lr-size", type=SIZES, default="128x128", show_default=True, help="Sizes of the LR image.")
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True, help="Images at once.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads; none: as many as torch takes.")
@click.option(
    "--seconds", type=click.FloatRange(0.1), default=3.0, show_default=True, help="Time for each row at each size."
)
@click.option("--memory/--no-memory", default=True, help="Measure memory, in a process of its own for each row.")
@click.option("--quality/--no-quality", default=True, help="Y-PSNR on the embedded validation photos.")
@click.option("--scale", type=click.IntRange(1, 8), help="Which scale of a multi-scale file.")
@click.option("--arch-option", "arch_options", type=SETTING, multiple=True, help="What a file does not say.")
def command(
    console: Console, *, models: tuple[Path, ...], arch_options: tuple[tuple[str, Any], ...], **options: Any
) -> None:
    """Time MODELs against their teacher; cost, memory and quality.

    MODEL is a checkpoint, a run folder or an exported file. A single run folder brings its own teacher.
    """
    from srkd.api import profile

    with console.progress() as progress:
        report = profile(models, arch_options=dict(arch_options), progress=progress, announce=console.say, **options)
    if console.wants_json:
        console.emit("profile", report)
    else:
        show(console, report)


def show(console: Console, report: ProfileReport) -> None:
    """What each model is, then how fast it is under each runtime and at each size."""
    for size in dict.fromkeys(row.lr_size for row in report.rows):
        rows = [row for row in report.rows if row.lr_size == size]
        show_models(console, report, rows)
        show_speed(console, rows)
    for note in report.notes:
        console.warn(note)
    console.detail(f"memory: {report.memory_method}")


def show_models(console: Console, report: ProfileReport, rows: list[Row]) -> None:
    """A line a model: cost and quality."""
    quality = {(item.model, item.scale): item for item in report.quality}
    by_model = {row.model: row for row in rows}
    scores = {model: item for (model, _), item in quality.items()}
    lines = []
    for model, row in by_model.items():
        name = f"{model} (teacher)" if model == report.teacher else model
        cells = [name, _count(row.params), "-" if row.macs is None else f"{row.macs / 1e9:.2f}"]
        item = scores.get(model)
        cells += ["-" if item is None or item.psnr_y is None else f"{item.psnr_y:.3f}"]
        cells += ["-" if item is None or item.over_bicubic is None else f"{item.over_bicubic:+.3f}"]
        lines.append(cells)
    title = f"LR {rows[0].lr_size}; PSNR-Y on the embedded validation photos, {report.protocol}"
    console.table(["model", "params", "GMAC", "PSNR-Y dB", "over bicubic"], lines, title=title)


def show_speed(console: Console, rows: list[Row]) -> None:
    """A line a model and runtime."""
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
            _times(row.speedup_same_runtime),
            _times(row.speedup_vs_teacher_eager),
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


def _times(factor: float | None) -> str:
    return "-" if factor is None else f"{factor:.2f}x"
