"""Enlarge files, folders and globs: one bad file never stops the rest, no input is ever overwritten."""

from __future__ import annotations

import glob
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from compressor.base.context import Progress, no_progress
from compressor.base.errors import SrkdError, UsageError
from compressor.base.files import require_writable_folder
from compressor.images.files import (
    FORMAT_OF_SUFFIX,
    IMAGE_SUFFIXES,
    read_picture,
    require_writable,
    write_picture,
)
from compressor.images.resize import upscale_bicubic
from compressor.images.sets import list_images, natural_key
from compressor.inference.super_resolve import super_resolve
from compressor.inference.tiling import UNBOUNDED_OVERLAP, WindowProgress
from compressor.runtimes.base import Runtime

MAX_OUTPUT_PIXELS = 2**29
"""Outputs are held whole, as floats: this bound is 6.4 GB."""


@dataclass(frozen=True)
class Upscaled:
    """A picture that was written; sizes are (width, height), `tile` and `seam` as in `tiling.Tiled`."""

    source: Path
    output: Path
    lr_size: tuple[int, int]
    sr_size: tuple[int, int]
    tile: int | None
    seam: float | None
    seconds: float


@dataclass(frozen=True)
class Failed:
    """A picture that was not enlarged, and the reason."""

    source: Path
    reason: str


@dataclass(frozen=True)
class UpscaleReport:
    """The result of `upscale`."""

    done: tuple[Upscaled, ...]
    failed: tuple[Failed, ...]


@dataclass(frozen=True)
class UpscaleSettings:
    """Settings of the outputs and of the tiles. `output` is a folder, or a file for one picture.

    Names get `suffix` (None: `_x4` at scale 4) and keep their extension unless `extension` gives another. Existing
    files are kept unless `overwrite`.
    """

    output: str | Path | None = None
    suffix: str | None = None
    extension: str | None = None
    overwrite: bool = False
    tile: int | None = None
    overlap: int = UNBOUNDED_OVERLAP
    self_ensemble: bool = False


@dataclass(frozen=True)
class Job:
    """A picture, and the file to write."""

    source: Path
    output: Path


def upscale(
    inputs: Sequence[str | Path],
    runtime: Runtime,
    settings: UpscaleSettings | None = None,
    progress: Progress = no_progress,
) -> UpscaleReport:
    """Enlarge pictures and write them beside their sources, or to the output of the settings.

    Alpha, grey, 16 bit, ICC profile and EXIF are kept where the format holds them.
    """
    settings = settings or UpscaleSettings()
    if settings.suffix is None:
        settings = replace(settings, suffix=f"_x{runtime.descriptor.scale}")
    jobs, failed = _plan_jobs(inputs, settings)
    sources = {_identity(job.source) for job in jobs}
    done: list[Upscaled] = []
    for number, job in enumerate(jobs, start=1):
        title = job.source.name if len(jobs) == 1 else f"{number}/{len(jobs)} {job.source.name}"
        progress(title, 0, 1)
        try:
            if _identity(job.output) in sources:
                raise SrkdError(f"{job.output} is one of the inputs: choose another suffix or output folder")
            if job.output.exists() and not settings.overwrite:
                raise SrkdError(f"{job.output} exists: allow overwriting, or choose another suffix or output folder")
            done.append(_upscale_one(job, runtime, settings, partial(progress, title)))
        except (SrkdError, RuntimeError, OSError, MemoryError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            failed.append(Failed(job.source, reason))
        progress(title, 1, 1)
    return UpscaleReport(tuple(done), tuple(failed))


def _plan_jobs(inputs: Sequence[str | Path], settings: UpscaleSettings) -> tuple[list[Job], list[Failed]]:
    """Return the picture and the output of every job, each output once; and the inputs that name no picture."""
    output, extension = settings.output, settings.extension
    if extension is not None and extension.lower() not in FORMAT_OF_SUFFIX:
        raise UsageError(f"extension {extension!r} is not one of {' '.join(sorted(IMAGE_SUFFIXES))}")
    folder = None if output is None else Path(output)
    if folder is not None:
        is_file = folder.suffix.lower() in IMAGE_SUFFIXES and not folder.is_dir()
        require_writable_folder(folder.parent if is_file else folder, "--out")
    named, listed, failed = _collect(inputs)
    if folder is not None and folder.suffix.lower() in IMAGE_SUFFIXES and not folder.is_dir():
        if len(named) + len(listed) != 1:
            raise UsageError(f"output {folder} is one file, but the inputs are {len(named) + len(listed)} pictures")
        return [Job((named + listed)[0], folder)], failed
    # A second run over a folder must not enlarge what the first run put there.
    outputs = {}
    for source in named + listed:
        suffix = extension or (source.suffix if source.suffix.lower() in IMAGE_SUFFIXES else ".png")
        outputs[source] = (folder or source.parent) / f"{source.stem}{settings.suffix}{suffix}"
    earlier = {_identity(path) for source, path in outputs.items() if _identity(path) != _identity(source)}
    used: set[str] = set()
    jobs = []
    for source in named + [source for source in listed if _identity(source) not in earlier]:
        first = path = outputs[source]
        number = 2
        while _identity(path) in used:
            path, number = first.with_name(f"{first.stem}-{number}{first.suffix}"), number + 1
        used.add(_identity(path))
        jobs.append(Job(source, path))
    return jobs, failed


def _collect(inputs: Sequence[str | Path]) -> tuple[list[Path], list[Path], list[Failed]]:
    """Return pictures named one by one, those of folders and globs, and inputs that match nothing; each file once."""
    named: dict[str, Path] = {}
    listed: dict[str, Path] = {}
    failed = []
    for text in inputs:
        path = Path(text)
        if path.is_file():
            named.setdefault(_identity(path), path)
            continue
        if path.is_dir():
            pictures, reason = list_images(path), f"no picture in the folder {path}"
        else:
            # Path.glob takes no absolute patterns.
            matches = sorted(map(Path, glob.glob(str(text), recursive=True)), key=natural_key)  # noqa: PTH207
            pictures = [match for match in matches if match.is_file() and match.suffix.lower() in IMAGE_SUFFIXES]
            reason = f"no picture matches {text}" if glob.has_magic(str(text)) else f"{text} does not exist"
        if not pictures:
            failed.append(Failed(path, reason))
        for picture in pictures:
            listed.setdefault(_identity(picture), picture)
    return list(named.values()), [path for key, path in listed.items() if key not in named], failed


def _identity(path: Path) -> str:
    """Return one spelling for each file, also on disks that ignore upper and lower case."""
    return str(path.resolve()).lower()


def _upscale_one(job: Job, runtime: Runtime, settings: UpscaleSettings, progress: WindowProgress) -> Upscaled:
    start = time.perf_counter()
    picture = read_picture(job.source)
    scale = runtime.descriptor.scale
    height, width = picture.rgb.shape[-2:]
    if width * height * scale**2 > MAX_OUTPUT_PIXELS:
        raise SrkdError(
            f"{job.source} would become {width * scale}x{height * scale}, more than the {MAX_OUTPUT_PIXELS:,} pixels "
            "held at once: cut it into pieces"
        )
    require_writable(job.output, (width * scale, height * scale), alpha=picture.alpha is not None)
    tiled = super_resolve(
        runtime,
        picture.rgb[None],
        tile=settings.tile,
        overlap=settings.overlap,
        self_ensemble=settings.self_ensemble,
        progress=progress,
    )
    # Transparency is enlarged bicubically: networks are trained on colours.
    alpha = None if picture.alpha is None else upscale_bicubic(picture.alpha, scale).clamp(0, 1)
    write_picture(replace(picture, rgb=tiled.sr[0], alpha=alpha), job.output)
    return Upscaled(
        job.source,
        job.output,
        lr_size=(width, height),
        sr_size=(width * scale, height * scale),
        tile=tiled.tile,
        seam=tiled.seam,
        seconds=time.perf_counter() - start,
    )
