"""`srkd upscale`: pictures in, larger pictures out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from compressor.base.errors import SrkdError
from compressor.inference.open import RUNTIMES
from srkd.console import Console
from srkd.parameters import DEVICE, SETTING, format_size
from srkd.verb import verb

if TYPE_CHECKING:
    from compressor.inference.upscale import Upscaled

EPILOG = """Examples:

\b
  srkd upscale runs/first photo.jpg
  srkd upscale student.onnx holiday/ -o enlarged
  srkd upscale edsr.pt 'scans/*.png' --self-ensemble --tile 128
"""


@verb("upscale", epilog=EPILOG)
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("pictures", metavar="PICTURE...", nargs=-1, required=True, type=click.Path())
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), help="Folder, or a file for one picture; none: beside it."
)
@click.option("--suffix", help="What names end in; none: _x4 at scale 4.")
@click.option("--extension", metavar=".EXT", help="Format to write, such as .png; none: the picture's own.")
@click.option("--overwrite", is_flag=True, help="Write over files that exist, but never over an input.")
@click.option("--tile", type=click.IntRange(0), help="LR pixels a side; none: by memory, 0: never.")
@click.option(
    "--overlap",
    type=click.IntRange(0),
    default=16,
    show_default=True,
    help="LR pixels around a tile, for networks that see the whole picture; others have their own, and are exact.",
)
@click.option("--self-ensemble", is_flag=True, help="Mean over the eight symmetries; eight times the work.")
@click.option("--scale", type=click.IntRange(1, 8), help="Which scale of a multi-scale file.")
@click.option("--arch-option", "arch_options", type=SETTING, multiple=True, help="What the file does not say.")
@click.option("--device", type=DEVICE, default="cpu", show_default=True, help="Where the model runs.")
@click.option("--runtime", type=click.Choice(list(RUNTIMES)), help="Insist on a runtime.")
@click.option(
    "--precision", type=click.Choice(["fp32", "bf16", "fp16"]), help="Of the arithmetic, in torch and OpenVINO."
)
@click.option("--threads", type=click.IntRange(1), help="CPU threads.")
def command(
    console: Console,
    *,
    model: Path,
    pictures: tuple[str, ...],
    arch_options: tuple[tuple[str, Any], ...],
    **options: Any,
) -> None:
    """Enlarge pictures, folders of pictures and globs with MODEL.

    Transparency, grey, 16 bit, EXIF and colour profile are kept. One bad file does not stop the rest.
    """
    from srkd.api import upscale

    with console.progress() as progress:
        report = upscale(
            model, pictures, arch_options=dict(arch_options), progress=progress, announce=console.say, **options
        )
    if console.wants_json:
        console.emit(
            "upscale", {"model": str(model), "done": [_told(done) for done in report.done], "failed": report.failed}
        )
    else:
        for done in report.done:
            seam = "" if done.seam is None else f", seams differ by up to {done.seam:.1e}"
            console.result(
                f"{done.output}  {format_size(done.lr_size)} -> {format_size(done.sr_size)}, {done.seconds:.1f} s{seam}"
            )
    for failed in report.failed:
        console.error(failed.reason)
    if report.failed:
        count = len(report.failed)
        raise SrkdError(f"{count} of {count + len(report.done)} pictures failed")


def _told(done: Upscaled) -> dict[str, object]:
    return {**vars(done), "lr_size": format_size(done.lr_size), "sr_size": format_size(done.sr_size)}
