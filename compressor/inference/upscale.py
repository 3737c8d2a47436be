"""Upscaling of pictures and films in files (a bad one never stops the rest), and of images in memory."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from pathlib import Path

from torch import Tensor

from compressor.base.context import QUIET, Context
from compressor.base.errors import SrkdError, UsageError
from compressor.images.files import Picture, read_picture, require_writable, write_picture
from compressor.images.in_memory import ImageInMemory, Planes, like, read_planes
from compressor.images.resize import upscale_bicubic
from compressor.inference.background import OneBehind, one_ahead
from compressor.inference.films import upscale_film
from compressor.inference.numbers import numbers_of
from compressor.inference.runtime_choice import RuntimeChoice, Selected
from compressor.inference.super_resolve import super_resolve
from compressor.inference.tiling import Tiled, WindowProgress
from compressor.inference.upscale_inputs import collect
from compressor.inference.upscale_outputs import Job, UpscaleSettings, plan_jobs, require_size, to_write
from compressor.inference.upscale_report import Failed, Outcomes, Upscaled, UpscaleReport
from compressor.runtimes.base import Runtime
from compressor.video.writing import DEFAULT_CRF

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
    files, failed, skipped = collect(inputs, recursive=settings.recursive, output=output)
    jobs = plan_jobs(files, settings, runtime.descriptor.scale)
    _require_used(settings, jobs)
    do_jobs = do_jobs or partial(upscale_jobs, runtime, context=context)
    left, others = to_write(files, jobs, settings)
    outcomes = Outcomes(failed=failed, skipped=skipped) + others + do_jobs(left, settings)
    return UpscaleReport(**vars(outcomes), numbers=numbers_of(runtime))


def _require_used(given: UpscaleSettings, jobs: Sequence[Job]) -> None:
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
    choice = RuntimeChoice(runtime, exact=settings.exact)
    outcomes = _upscale_pictures([job for job in jobs if not job.is_film], choice, settings, context)
    for job in (job for job in jobs if job.is_film):
        try:
            outcomes += Outcomes(films=[upscale_film(job, choice, settings, context)])
        except FAILURES as error:
            outcomes += Outcomes(failed=[_failure(job, error)])
    return outcomes


def _upscale_pictures(
    jobs: Sequence[Job], choice: RuntimeChoice, settings: UpscaleSettings, context: Context
) -> Outcomes:
    """Enlarge some pictures. While one is enlarged, the next one is read and the previous one written."""
    failed = list[Failed]()
    progress = context.progress
    writes: list[Future[Upscaled | Failed]] = []
    read = partial(_read, scale=choice.runtime.descriptor.scale)
    with OneBehind() as writer, one_ahead(map(read, jobs)) as pictures:
        for number, (job, reading) in enumerate(zip(jobs, pictures, strict=True), start=1):
            title = job.source.name if len(jobs) == 1 else f"{number}/{len(jobs)} {job.source.name}"
            progress(title, 0, 1)
            try:
                start = time.perf_counter()
                picture = reading.result()
                if picture.frames > 1:
                    context.note(f"{job.source.name} holds {picture.frames} frames: the first is enlarged")
                alpha = None if picture.alpha is None else picture.alpha[None]
                planes = Planes(picture.rgb[None], alpha, picture.bits)
                selected = choice.select(planes.rgb, bits=planes.bits, ahead=len(jobs) - number)
                tiled, alpha = _enlarge(planes, selected, settings, partial(progress, title))
                seconds = time.perf_counter() - start
                writes.append(writer.submit(partial(_write, job, picture, tiled, alpha, selected, seconds)))
                if tiled.sr[0, 0].numel() > OVERLAPPED_OUTPUT_PIXELS:
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
    require_size(job.source, width, height, scale)
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
    require_size("the image", planes.rgb.shape[-1], planes.rgb.shape[-2], scale)
    selected = RuntimeChoice(runtime, exact=settings.exact).select(planes.rgb, bits=planes.bits)
    tiled, alpha = _enlarge(planes, selected, settings, progress)
    if tiled.seam is not None:
        seams = f"seams differ by up to {255 * tiled.seam:.1f} of 255: give a larger tile, or tile=0 for none"
        warnings.warn(f"tiles of {tiled.tile} pixels are not exact for {runtime.label}, {seams}", stacklevel=2)
    return like(image, Planes(tiled.sr, alpha))


def _enlarge(
    planes: Planes, selected: Selected, settings: UpscaleSettings, progress: WindowProgress | None
) -> tuple[Tiled, Tensor | None]:
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
    return tiled, alpha


def _write(
    job: Job, picture: Picture, tiled: Tiled, alpha: Tensor | None, selected: Selected, seconds: float
) -> Upscaled | Failed:
    """Write the output; `seconds` is the time spent so far. Waiting for other pictures' writes does not count."""
    start = time.perf_counter()
    try:
        write_picture(replace(picture, rgb=tiled.sr[0], alpha=None if alpha is None else alpha[0]), job.output)
    except FAILURES as error:
        return _failure(job, error)
    return Upscaled(
        job.source,
        job.output,
        lr_size=(picture.rgb.shape[-1], picture.rgb.shape[-2]),
        sr_size=(tiled.sr.shape[-1], tiled.sr.shape[-2]),
        tile=tiled.tile,
        seam=tiled.seam,
        precision=selected.runtime.precision,
        runtime=selected.runtime.name,
        psnr_to_exact=selected.psnr_to_exact,
        seconds=seconds + time.perf_counter() - start,
    )
