"""`srkd export`: a student in the formats that other programs run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from compressor.errors import SrkdError
from srkd.console import Console
from srkd.parameters import Setting
from srkd.verb import verb

if TYPE_CHECKING:
    from export.exporting import ExportReport, FileReport

EPILOG = """Examples:

\b
  srkd export runs/first
  srkd export student.safetensors --onnx -o exported
"""


@verb("export", epilog=EPILOG)
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--onnx", is_flag=True, help="ONNX, float32, any batch and image size; the default.")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Folder to write to; none: beside the model.")
@click.option("--scale", type=click.IntRange(1, 8), help="Which scale of a multi-scale file.")
@click.option(
    "--arch-option", "arch_options", type=Setting(), multiple=True, help="What the file does not say: res_scale=0.1."
)
def command(
    console: Console,
    *,
    model: Path,
    onnx: bool,
    out: Path | None,
    scale: int | None,
    arch_options: tuple[tuple[str, Any], ...],
) -> None:
    """Write MODEL in other formats, each compared with the network.

    The comparison runs on photos, black, white, noise, odd sizes and a batch. A file that differs is not kept.
    """
    from srkd.api import export

    with console.progress() as progress:
        report = export(
            model,
            formats=["onnx"] if onnx else [],
            out=out,
            scale=scale,
            arch_options=dict(arch_options),
            progress=progress,
        )
    if console.wants_json:
        console.emit("export", {"model": str(model), **vars(report)})
    else:
        show(console, report)
    failed = [file for file in report.files if file.verdict != "passed"]
    if failed:
        raise SrkdError("; ".join(f"{file.format}: {file.reason}" for file in failed))


def show(console: Console, report: ExportReport) -> None:
    """A row a format."""
    console.table(
        ["format", "precision", "file", "MB", "largest difference", "PSNR to the network", "verdict", "s"],
        [_row(file) for file in report.files],
    )
    console.detail(f"compared on: {', '.join(report.compared_on)}")
    for file in report.files:
        if file.facts:
            told = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in file.facts.items())
            console.say(f"{file.format}: {told}")


def _row(file: FileReport) -> tuple[str, ...]:
    parity = file.parity
    psnr = "-" if parity is None else "equal" if parity.psnr is None else f"{parity.psnr:.1f} dB"
    return (
        file.format,
        file.precision,
        "-" if file.path is None else str(file.path),
        "-" if file.bytes is None else f"{file.bytes / 1e6:.2f}",
        "-" if parity is None else f"{parity.max_abs:.1e}",
        psnr,
        file.verdict,
        f"{file.seconds:.1f}",
    )
