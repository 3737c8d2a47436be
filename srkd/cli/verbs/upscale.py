"""`srkd upscale`: enlarging pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compressor.base.errors import SrkdError
from srkd.cli.verb import verb
from srkd.options.values import format_size
from srkd.options.verbs import UpscaleOptions
from srkd.terminal.console import Console

if TYPE_CHECKING:
    from compressor.inference.upscale import UpscaleReport


@verb(
    "upscale",
    UpscaleOptions,
    examples=(
        "srkd upscale runs/first photo.jpg",
        "srkd upscale student.onnx holiday/ -r -o enlarged --skip-existing",
        "srkd upscale edsr.pt 'scans/*.png' --self-ensemble --tile 128",
    ),
)
def command(console: Console, options: UpscaleOptions) -> None:
    """Enlarge pictures, folders of pictures and globs with MODEL.

    Transparency, grey, 16 bit, EXIF and colour profile are kept if the format can hold them. One bad file does not
    stop the rest. srkd names pictures of a folder that it leaves out.
    """
    from compressor.images.metrics import finite_or_none
    from srkd.api.upscale import run_upscale

    with console.context() as context:
        report = run_upscale(options, context)
    if console.wants_json:
        done = [
            {
                **vars(picture),
                "lr_size": format_size(picture.lr_size),
                "sr_size": format_size(picture.sr_size),
                "psnr_to_exact": None if picture.psnr_to_exact is None else finite_or_none(picture.psnr_to_exact),
            }
            for picture in report.done
        ]
        results = {"done": done, "failed": report.failed, "skipped": report.skipped}
        console.emit("upscale", {"model": str(options.model), **report.numbers.to_dict(), **results})
    else:
        for picture in report.done:
            seam = "" if picture.seam is None else f", seams differ by up to {picture.seam:.1e}"
            sizes = f"{format_size(picture.lr_size)} -> {format_size(picture.sr_size)}"
            precision = "" if picture.precision == "fp32" else f", in {picture.precision}"
            console.result(f"{picture.output}  {sizes}, {picture.seconds:.1f} s{precision}{seam}")
        line = report.numbers.line()
        if line is not None:
            console.say(f"{options.model}: {line}")
    show_skipped(console, report)
    for failed in report.failed:
        console.error(failed.reason)
    if report.failed:
        count = len(report.failed)
        raise SrkdError(f"{count} of {count + len(report.done)} pictures failed")


def show_skipped(console: Console, report: UpscaleReport) -> None:
    """Name the skipped pictures; those enlarged before are only counted, and named under -v."""
    for skipped in report.skipped:
        line = f"skipped {skipped.source}: {skipped.reason}"
        if skipped.output_exists:
            console.detail(line)
        else:
            console.warn(line)
    earlier = sum(skipped.output_exists for skipped in report.skipped)
    if earlier:
        console.say(f"skipped {earlier}, as their outputs exist")
