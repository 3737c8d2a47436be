"""Upscaling of pictures and films in files (a bad one never stops the rest), and of images in memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from torch import Tensor

from compressor.base.context import QUIET, Context
from compressor.base.errors import SrkdError, UsageError
from compressor.images.files import Picture, read_picture, require_writable, write_picture
from compressor.images.in_memory import ImageInMemory, Planes, like, read_planes
from compressor.images.resize import upscale_bicubic
from compressor.inference.background import OneBehind, read_ahead
from compressor.inference.films import (
    FRAMES_OF_A_CHOICE,
    EnlargedFrame,
    UpscaledFilm,
    upscale_film,
)
from compressor.inference.lower_precision import PrecisionChoice, Selected
from compressor.inference.numbers import numbers_of
from compressor.inference.super_resolve import super_resolve
from compressor.inference.tiling import Tiled, WindowProgress
from compressor.inference.upscale_inputs import collect
from compressor.inference.upscale_outputs import Job, UpscaleSettings, plan_jobs, to_write
from compressor.inference.upscale_report import Failed, Outcomes, Upscaled, UpscaleReport
from compressor.runtimes.base import Runtime
from compressor.video.writing import DEFAULT_CRF

MAX_OUTPUT_PIXELS = 2**29
"""The most output pixels of a picture: outputs are kept whole in memory as floats, here 6.4 GB."""

OVERLAPPED_OUTPUT_PIXELS = 2**27
"""Outputs up to this size (1.6 GB) are written while the next picture is enlarged; larger ones are written first."""

FAILURES = (SrkdError, RuntimeError, OSError, MemoryError)
"""Exceptions that fail one picture or film while the others continue."""


DoJobs = Callable[[Sequence[Job], UpscaleSettings], Outcomes]
"""Enlarges pictures, here or elsewhere."""


def upscale(
    inputs: Sequence[str | Path],
    runtime: Runtime,
    settings: UpscaleSettings | None = None,
    context: Context = QUIET,
    *,
    do_jobs: DoJobs | None = None,
) -> UpscaleReport:
    """Enlarge pictures and films and write them beside their sources, or to the output of the settings.

    Alpha, grey, 16 bit, ICC profile and EXIF are kept if the format supports them. `do_jobs` enlarges the pictures
    elsewhere.
    """
    settings = settings or UpscaleSettings()
    output = None if settings.output is None else Path(settings.output)
    contents = collect(inputs, recursive=settings.recursive, output=output)
    jobs = plan_jobs(contents, settings, runtime.descriptor.scale)
    _require_used(settings, jobs)
    do_jobs = do_jobs or partial(upscale_jobs, runtime, context=context)
    left, others = to_write(jobs, settings)
    outcomes = do_jobs(left, settings)
    return UpscaleReport(
        tuple(outcomes.done),
        (*contents.failed, *others.failed, *outcomes.failed),
        (*contents.skipped, *others.skipped, *outcomes.skipped),
        numbers_of(runtime),
        tuple(outcomes.films),
    )


def _require_used(given: UpscaleSettings, jobs: Sequence[Job]) -> None:
    """Refuse options that no input uses."""
    if given.output_file is not None and given.suffix is not None:
        raise UsageError(f"--out {given.output} names the file: leave out --suffix {given.suffix}")
    of_films = {"--codec": given.codec is not None, "--crf": given.crf != DEFAULT_CRF}
    flags = " and ".join(flag for flag, is_given in of_films.items() if is_given)
    if flags and jobs and not any(job.is_film for job in jobs):
        raise UsageError(f"{flags}: for films, and all inputs are pictures")
    if given.extension is not None and jobs and all(job.is_film for job in jobs):
        raise UsageError(f"--extension {given.extension}: for pictures, and all inputs are films; --out names a film")


def upscale_jobs(
    runtime: Runtime, jobs: Sequence[Job], settings: UpscaleSettings, context: Context = QUIET
) -> Outcomes:
    """Enlarge some pictures, and then some films."""
    choice = PrecisionChoice(runtime, exact=settings.exact)
    pictures = _upscale_pictures([job for job in jobs if not job.is_film], choice, settings, context)
    failed, films = [*pictures.failed], list[UpscaledFilm]()
    for job in (job for job in jobs if job.is_film):
        try:
            films.append(_upscale_film(job, runtime, choice, settings, context))
        except FAILURES as error:
            failed.append(_failure(job, error))
    return Outcomes(pictures.done, failed, films=films)


def _upscale_film(
    job: Job, runtime: Runtime, choice: PrecisionChoice, settings: UpscaleSettings, context: Context
) -> UpscaledFilm:
    selected = Selected(runtime)

    def enlarge(rgb: Tensor, bits: int, max_levels: int | None) -> EnlargedFrame:
        nonlocal selected
        _require_size(job.source, rgb.shape[-1], rgb.shape[-2], runtime.descriptor.scale)
        planes = Planes(rgb, bits=8 if bits == 8 else 16)
        if max_levels is not None:
            selected = choice.select(rgb, bits=planes.bits, pictures=FRAMES_OF_A_CHOICE, max_levels=max_levels)
        frame = _enlarge(planes, selected, settings, None)
        return EnlargedFrame(frame.tiled.sr, frame.precision, frame.psnr_to_exact)

    made_with = {
        name.replace("_", "-"): getattr(settings, name) for name in ("tile", "overlap", "self_ensemble", "exact")
    }
    return upscale_film(
        job.source,
        job.output,
        runtime,
        enlarge,
        made_with,
        context,
        codec=settings.codec,
        crf=settings.crf,
        segment=settings.segment,
    )


def _upscale_pictures(
    jobs: Sequence[Job], choice: PrecisionChoice, settings: UpscaleSettings, context: Context
) -> Outcomes:
    """Enlarge some pictures. While one is enlarged, the next one is read and the previous one written."""
    failed = list[Failed]()
    progress = context.progress
    writes: list[Future[Upscaled | Failed]] = []
    read = partial(_read, scale=choice.runtime.descriptor.scale)
    with OneBehind() as writer, read_ahead(jobs, read) as pictures:
        for number, (job, reading) in enumerate(pictures, start=1):
            title = job.source.name if len(jobs) == 1 else f"{number}/{len(jobs)} {job.source.name}"
            progress(title, 0, 1)
            try:
                start = time.perf_counter()
                picture = reading.result()
                alpha = None if picture.alpha is None else picture.alpha[None]
                planes = Planes(picture.rgb[None], alpha, picture.bits)
                selected = choice.select(planes.rgb, bits=planes.bits)
                enlarged = _enlarge(planes, selected, settings, partial(progress, title))
                seconds = time.perf_counter() - start
                writes.append(writer.submit(partial(_write, job, picture, enlarged, seconds)))
                if enlarged.tiled.sr[0, 0].numel() > OVERLAPPED_OUTPUT_PIXELS:
                    writer.finish()
            except FAILURES as error:
                failed.append(_failure(job, error))
            finally:
                progress(title, 1, 1)
    results = [writing.result() for writing in writes]
    failed += [result for result in results if isinstance(result, Failed)]
    return Outcomes([result for result in results if isinstance(result, Upscaled)], failed)


def _failure(job: Job, error: BaseException) -> Failed:
    return Failed(job.source, " ".join(str(error).split()) or type(error).__name__)


def _read(job: Job, scale: int) -> Picture:
    picture = read_picture(job.source)
    height, width = picture.rgb.shape[-2:]
    _require_size(job.source, width, height, scale)
    require_writable(job.output, (width * scale, height * scale), alpha=picture.alpha is not None)
    return picture


def upscale_image(
    image: ImageInMemory,
    runtime: Runtime,
    settings: UpscaleSettings | None = None,
    progress: WindowProgress | None = None,
) -> ImageInMemory:
    """Return a PIL image, an array or a tensor enlarged, in the same kind; nothing is written."""
    settings, scale = settings or UpscaleSettings(), runtime.descriptor.scale
    planes = read_planes(image)
    _require_size("the image", planes.rgb.shape[-1], planes.rgb.shape[-2], scale)
    selected = PrecisionChoice(runtime, exact=settings.exact).select(planes.rgb, bits=planes.bits)
    enlarged = _enlarge(planes, selected, settings, progress)
    return like(image, Planes(enlarged.tiled.sr, enlarged.alpha))


def _require_size(name: object, width: int, height: int, scale: int) -> None:
    if width * height * scale**2 > MAX_OUTPUT_PIXELS:
        raise SrkdError(
            f"{name} would become {width * scale}x{height * scale}, more than the {MAX_OUTPUT_PIXELS:,} pixels "
            "held at once: cut it into pieces"
        )


@dataclass(frozen=True)
class _Enlarged:
    """The planes of an output, and how they were computed."""

    tiled: Tiled
    alpha: Tensor | None
    precision: str
    psnr_to_exact: float | None


def _enlarge(
    planes: Planes, selected: Selected, settings: UpscaleSettings, progress: WindowProgress | None
) -> _Enlarged:
    """Return the planes enlarged: colours by the network, alpha bicubically, as networks are trained on colours."""
    tiled = super_resolve(
        selected.runtime,
        planes.rgb,
        tile=settings.tile,
        overlap=settings.overlap,
        self_ensemble=settings.self_ensemble,
        progress=progress,
    )
    scale = selected.runtime.descriptor.scale
    alpha = None if planes.alpha is None else upscale_bicubic(planes.alpha, scale).clamp(0, 1)
    return _Enlarged(tiled, alpha, selected.runtime.precision, selected.psnr_to_exact)


def _write(job: Job, picture: Picture, enlarged: _Enlarged, seconds: float) -> Upscaled | Failed:
    """Write the output; `seconds` is the time spent so far. Waiting for other pictures' writes does not count."""
    start, tiled = time.perf_counter(), enlarged.tiled
    try:
        alpha = None if enlarged.alpha is None else enlarged.alpha[0]
        write_picture(replace(picture, rgb=tiled.sr[0], alpha=alpha), job.output)
    except FAILURES as error:
        return _failure(job, error)
    return Upscaled(
        job.source,
        job.output,
        lr_size=(picture.rgb.shape[-1], picture.rgb.shape[-2]),
        sr_size=(tiled.sr.shape[-1], tiled.sr.shape[-2]),
        tile=tiled.tile,
        seam=tiled.seam,
        precision=enlarged.precision,
        psnr_to_exact=enlarged.psnr_to_exact,
        seconds=seconds + time.perf_counter() - start,
    )
