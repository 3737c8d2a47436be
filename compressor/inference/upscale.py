"""Files, folders and globs in, enlarged files out: one bad file never stops the rest, no input is ever overwritten."""

from __future__ import annotations

import glob
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from torch import Tensor

from compressor.base.context import Progress, no_progress
from compressor.base.errors import SrkdError, UsageError
from compressor.images.files import (
    FORMAT_OF_SUFFIX,
    IMAGE_SUFFIXES,
    Picture,
    read_picture,
    require_writable,
    write_picture,
)
from compressor.images.resize import upscale_bicubic
from compressor.images.sets import list_images, natural_key
from compressor.inference.super_resolve import super_resolve
from compressor.inference.tiling import UNBOUNDED_OVERLAP
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
    source: Path
    reason: str


@dataclass(frozen=True)
class UpscaleReport:
    done: tuple[Upscaled, ...]
    failed: tuple[Failed, ...]


@dataclass(frozen=True)
class Job:
    source: Path
    output: Path


def upscale(
    inputs: Sequence[str | Path],
    runtime: Runtime,
    *,
    output: str | Path | None = None,
    suffix: str | None = None,
    extension: str | None = None,
    tile: int | None = None,
    overlap: int = UNBOUNDED_OVERLAP,
    self_ensemble: bool = False,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> UpscaleReport:
    """Enlarge pictures and write them beside their sources, or to `output` (a folder, or a file for one picture).

    Names get `suffix` (default `_x4` at scale 4) and keep their extension unless `extension` gives another. Existing
    files are kept unless `overwrite`; alpha, grey, 16 bit, ICC profile and EXIF are kept where the format holds them.
    """
    jobs, failed = plan_jobs(
        inputs, output=output, suffix=f"_x{runtime.descriptor.scale}" if suffix is None else suffix, extension=extension
    )
    sources = {_identity(job.source) for job in jobs}
    done: list[Upscaled] = []
    for number, job in enumerate(jobs, start=1):
        title = job.source.name if len(jobs) == 1 else f"{number}/{len(jobs)} {job.source.name}"
        progress(title, 0, 1)
        try:
            if _identity(job.output) in sources:
                raise SrkdError(f"{job.output} is one of the inputs: choose another suffix or output folder")
            if job.output.exists() and not overwrite:
                raise SrkdError(f"{job.output} exists: allow overwriting, or choose another suffix or output folder")
            done.append(_upscale_one(job, runtime, tile, overlap, self_ensemble, partial(progress, title)))
        except (SrkdError, RuntimeError, OSError, MemoryError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            failed.append(Failed(job.source, reason))
        progress(title, 1, 1)
    return UpscaleReport(tuple(done), tuple(failed))


def plan_jobs(
    inputs: Sequence[str | Path], *, output: str | Path | None, suffix: str, extension: str | None
) -> tuple[list[Job], list[Failed]]:
    """Which picture goes where, every output name once; and the inputs that name no picture."""
    if extension is not None and extension.lower() not in FORMAT_OF_SUFFIX:
        raise UsageError(f"extension {extension!r} is not one of {' '.join(sorted(IMAGE_SUFFIXES))}")
    named, found, failed = _collect(inputs)
    folder = None if output is None else Path(output)
    if folder is not None and folder.suffix.lower() in IMAGE_SUFFIXES and not folder.is_dir():
        if len(named) + len(found) != 1:
            raise UsageError(f"output {folder} is one file, but the inputs are {len(named) + len(found)} pictures")
        return [Job((named + found)[0], folder)], failed
    listed = named + found
    # A second run over a folder must not enlarge what the first run put there.
    wanted_of = {source: _output_of(source, folder, suffix, extension) for source in listed}
    ours = {_identity(wanted) for source, wanted in wanted_of.items() if _identity(wanted) != _identity(source)}
    sources = named + [source for source in found if _identity(source) not in ours]
    taken: set[str] = set()
    jobs = []
    for source in sources:
        wanted = free = wanted_of[source]
        number = 2
        while _identity(free) in taken:
            free, number = wanted.with_name(f"{wanted.stem}-{number}{wanted.suffix}"), number + 1
        taken.add(_identity(free))
        jobs.append(Job(source, free))
    return jobs, failed


def _collect(inputs: Sequence[str | Path]) -> tuple[list[Path], list[Path], list[Failed]]:
    """Pictures named one by one, pictures found in folders and by globs, and what matched nothing; each file once."""
    named: dict[str, Path] = {}
    found: dict[str, Path] = {}
    failed = []
    for given in inputs:
        path = Path(given)
        if path.is_file():
            named.setdefault(_identity(path), path)
            continue
        if path.is_dir():
            pictures, what = list_images(path), f"no picture in the folder {path}"
        else:
            # Path.glob takes no absolute patterns.
            spellings = glob.glob(str(given), recursive=True)  # noqa: PTH207
            matches = sorted(map(Path, spellings), key=natural_key)
            pictures = [match for match in matches if match.is_file() and match.suffix.lower() in IMAGE_SUFFIXES]
            what = f"no picture matches {given}" if glob.has_magic(str(given)) else f"{given} does not exist"
        if not pictures:
            failed.append(Failed(path, what))
        for picture in pictures:
            found.setdefault(_identity(picture), picture)
    return list(named.values()), [path for key, path in found.items() if key not in named], failed


def _identity(path: Path) -> str:
    """One spelling a file, also on disks that do not tell upper from lower case."""
    return str(path.resolve()).lower()


def _output_of(source: Path, folder: Path | None, suffix: str, extension: str | None) -> Path:
    kept = source.suffix if source.suffix.lower() in IMAGE_SUFFIXES else ".png"
    return (folder or source.parent) / f"{source.stem}{suffix}{extension or kept}"


def _upscale_one(
    job: Job,
    runtime: Runtime,
    tile: int | None,
    overlap: int,
    self_ensemble: bool,
    progress: Callable[[int, int], None],
) -> Upscaled:
    began = time.perf_counter()
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
        runtime, picture.rgb[None], tile=tile, overlap=overlap, self_ensemble=self_ensemble, progress=progress
    )
    write_picture(_enlarged(picture, tiled.sr, scale), job.output)
    return Upscaled(
        job.source,
        job.output,
        lr_size=(width, height),
        sr_size=(width * scale, height * scale),
        tile=tiled.tile,
        seam=tiled.seam,
        seconds=time.perf_counter() - began,
    )


def _enlarged(picture: Picture, sr: Tensor, scale: int) -> Picture:
    """Transparency is enlarged bicubically: networks are trained on colours."""
    alpha = None if picture.alpha is None else upscale_bicubic(picture.alpha, scale).clamp(0, 1)
    return replace(picture, rgb=sr[0], alpha=alpha)
