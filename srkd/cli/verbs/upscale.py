"""`srkd upscale`: enlarging pictures and films."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compressor.base.errors import SrkdError
from compressor.images.suffixes import is_film
from srkd.cli.verb import verb
from srkd.options.values import format_size
from srkd.options.verbs import UpscaleOptions
from srkd.terminal.console import Console

if TYPE_CHECKING:
    from compressor.inference.upscale_report import Upscaled, UpscaledFilm, UpscaleReport


@verb(
    "upscale",
    UpscaleOptions,
    examples=(
        "srkd upscale runs/first photo.jpg",
        "srkd upscale student.onnx holiday/ -r -o enlarged --skip-existing",
        "srkd upscale edsr.pt 'scans/*.png' --self-ensemble --tile 128",
        "srkd upscale student.onnx film.mp4 -o large.mp4",
    ),
)
def command(console: Console, options: UpscaleOptions) -> None:
    """Enlarge pictures, folders of pictures, films and globs with MODEL.

    Transparency, grey, 16 bit, EXIF and colour profile are kept if the format can hold them; of films the sound,
    subtitles, times and colours (docs/use/video.md). One bad file does not stop the rest. srkd names pictures of a
    folder that it leaves out. A film goes on where a killed command left it.
    """
    from srkd.api.upscale import run_upscale

    with console.context() as context:
        report = run_upscale(options, context)
    results = {"done": list(map(entry, report.done)), "films": list(map(entry, report.films))}
    result = {"model": str(options.model), **report.numbers.to_dict(), **results, "failed": report.failed}
    console.report("upscale", {**result, "skipped": report.skipped}, lambda console, _: show(console, options, report))
    for skipped in report.skipped:
        # Those enlarged before are only counted, and named under -v.
        tell = console.detail if skipped.output_exists else console.warn
        tell(f"skipped {skipped.source}: {skipped.reason}")
    earlier = sum(skipped.output_exists for skipped in report.skipped)
    if earlier:
        console.say(f"skipped {earlier}, as their outputs exist")
    for failed in report.failed:
        console.error(failed.reason)
    if report.failed:
        count = len(report.failed)
        total = count + len(report.done) + len(report.films)
        has_films = report.films or any(is_film(failed.source) for failed in report.failed)
        kinds = "pictures and films" if has_films else "pictures"
        raise SrkdError(f"{count} of {total} {kinds} failed")


def show(console: Console, options: UpscaleOptions, report: UpscaleReport) -> None:
    """Print where each picture and film is, what a film became, and which of its streams were copied."""
    for picture in report.done:
        seam = "" if picture.seam is None else f", seams differ by up to {picture.seam:.1e}"
        sizes = f"{format_size(picture.lr_size)} -> {format_size(picture.sr_size)}"
        computed = f"{picture.seconds:.1f} s ({picture.runtime}, {picture.precision})"
        console.result(f"{picture.output}  {sizes}, {computed}{seam}")
    for film in report.films:
        counts = [f"{film.frames} frames"]
        counts += [f"{film.reused} equal to the one before"] if film.reused else []
        counts += [f"{film.resumed} of an earlier call"] if film.resumed else []
        sizes = f"{format_size(film.lr_size)} -> {format_size(film.sr_size)}"
        computed = f"{film.seconds:.1f} s, {film.fps:.2f} fps ({', '.join((*film.runtimes, *film.precisions))})"
        written = f"{film.codec} {film.pixel_format}"
        console.result(f"{film.output}  {sizes}, {', '.join(counts)}, {computed}, {written}")
        if film.copied:
            console.say(f"copied: {', '.join(film.copied)}")
    line = report.numbers.line()
    if line is not None:
        console.say(f"{options.model}: {line}")


def entry(written: Upscaled | UpscaledFilm) -> dict[str, object]:
    sizes = {"lr_size": format_size(written.lr_size), "sr_size": format_size(written.sr_size)}
    return {**vars(written), **sizes}
