"""`srkd convert`: a network back in the names of the code base it came from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from srkd.console import Console
from srkd.parameters import SETTING
from srkd.verb import verb

if TYPE_CHECKING:
    from compressor.models.checkpoints.convert import Converted

EPILOG = """Examples:

\b
  srkd convert runs/first --to basicsr -o student.pth
  srkd convert edsr_baseline_x4.pt --to srkd
"""


@verb("convert", epilog=EPILOG)
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--to", required=True, metavar="CODE", help="basicsr, edsr-pytorch, srkd; also rcan, carn, csd, fakd, swinir."
)
@click.option("-o", "--out", type=click.Path(path_type=Path), help="File to write; none: beside the model, as _CODE.")
@click.option("--scale", type=click.IntRange(1, 8), help="Which scale of a multi-scale file.")
@click.option(
    "--arch-option", "arch_options", type=SETTING, multiple=True, help="What the file does not say: res_scale=0.1."
)
def command(
    console: Console,
    *,
    model: Path,
    to: str,
    out: Path | None,
    scale: int | None,
    arch_options: tuple[tuple[str, Any], ...],
) -> None:
    """Write MODEL as a checkpoint of another code base, every value as it is.

    What that code base keeps in option files and not in checkpoints (res_scale, the range) is said aloud.
    """
    from compressor.models.checkpoints.convert import convert_file

    written = convert_file(model, to, out, scale=scale, arch_options=dict(arch_options))
    if console.wants_json:
        console.emit("convert", written)
    else:
        show(console, written)


def show(console: Console, written: Converted) -> None:
    """What was written, and what the file cannot hold."""
    console.result(f"wrote {written.path}, {written.bytes / 1e6:.2f} MB, {written.to} ({written.wrapping})")
    for name, value in written.needs.items():
        shown = "/".join(f"{part:g}" for part in value) if isinstance(value, tuple) else value
        console.result(f"not in the file: {name}={shown}; set it in the option file, or --arch-option {name}={shown}")
    for note in written.notes:
        console.result(f"note: {note}")
