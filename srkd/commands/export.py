"""`srkd export`: a student in the formats that other programs run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from compressor.base.errors import SrkdError
from export.formats import DEFAULT_FORMATS, FORMATS
from srkd.console import Console
from srkd.parameters import SETTING, SIZE, SIZES
from srkd.verb import Body, verb

if TYPE_CHECKING:
    from export.exporting import ExportReport, FileReport

EPILOG = """Examples:

\b
  srkd export runs/first
  srkd export student.safetensors --onnx -o exported
  srkd export student.safetensors --onnx --static 320x180
  srkd export student.safetensors --onnx --fp16 --io uint8
  srkd export student.safetensors --all --json
"""


def one_flag_a_format(body: Body) -> Body:
    """A flag for each row of the table of formats, collected by name in `formats`."""
    decorate: list[Callable[[Body], Body]] = []
    for row in FORMATS.values():
        told = f"{row.told}{'; the default' if row.name in DEFAULT_FORMATS else ''}."
        decorate.append(click.option(f"--{row.name}", "formats", flag_value=row.name, multiple=True, help=told))
    for option in reversed(decorate):
        body = option(body)
    return body


@verb("export", epilog=EPILOG)
@click.argument("model", type=click.Path(path_type=Path))
@one_flag_a_format
@click.option("--all", "everything", is_flag=True, help="Every format that this machine has what it takes for.")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Folder to write to; none: beside the model.")
@click.option("--static", type=SIZE, help="The only LR size that the files shall take; none: any, where it can be.")
@click.option(
    "--sizes",
    type=SIZES,
    help="LR sizes that a TensorRT engine is tuned for, and takes at most; none: 256x256,512x512.",
)
@click.option(
    "--io",
    type=click.Choice(["float", "uint8"]),
    default="float",
    show_default=True,
    help="Images of the files: N,C,H,W in [0,1] unclamped, or N,H,W,C bytes with range, clamp and rounding inside.",
)
@click.option(
    "--shuffle",
    type=click.Choice(["crd", "dcr"]),
    default="crd",
    show_default=True,
    help="Order of channels at DepthToSpace; some accelerators know dcr only.",
)
@click.option("--scale", type=click.IntRange(1, 8), help="Which scale of a multi-scale file.")
@click.option(
    "--arch-option", "arch_options", type=SETTING, multiple=True, help="What the file does not say: res_scale=0.1."
)
def command(
    console: Console,
    *,
    formats: tuple[str, ...],
    everything: bool,
    arch_options: tuple[tuple[str, Any], ...],
    **options: Any,
) -> None:
    """Write MODEL in other formats, each compared with the network.

    The comparison runs on photos, black, white, noise, odd sizes and a batch. A file that differs is not kept.
    """
    from srkd.api import export

    asked = tuple(FORMATS) if everything else formats
    with console.progress() as progress:
        report = export(
            formats=asked, arch_options=dict(arch_options), progress=progress, announce=console.say, **options
        )
    if console.wants_json:
        console.emit("export", {"model": str(options["model"]), **vars(report)})
    else:
        show(console, report)
    # Of everything, what is not to be had here is no failure, unless it was asked for by name.
    wanted = [file for file in report.files if not everything or file.format in formats or file.verdict == "failed"]
    absent = [file for file in wanted if file.path is None]
    if absent:
        raise SrkdError("; ".join(f"{file.format}: {file.reason}" for file in absent))


def show(console: Console, report: ExportReport) -> None:
    """A row a format."""
    console.table(
        ["format", "precision", "file", "MB", "largest difference", "PSNR to the network", "verdict", "s"],
        [_row(file) for file in report.files],
    )
    console.detail(f"compared on: {', '.join(report.compared_on)}")
    for file in report.files:
        if file.reason and file.path is not None:
            console.say(f"{file.format}: {file.reason}")
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
