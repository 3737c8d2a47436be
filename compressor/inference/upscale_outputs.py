"""Where the outputs of `upscale` go: never over an input, and over another file on request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from compressor.base.errors import SrkdError, UsageError
from compressor.base.files import require_writable_folder
from compressor.images.suffixes import (
    CONTAINER_OF_SUFFIX,
    FILM_SUFFIXES,
    FORMAT_OF_SUFFIX,
    IMAGE_SUFFIXES,
    OTHER_PICTURE_SUFFIXES,
    is_film,
)
from compressor.inference.tiling import UNBOUNDED_OVERLAP
from compressor.inference.upscale_inputs import Input, identity
from compressor.inference.upscale_report import Failed, Outcomes, SkippedPicture
from compressor.video.writing import DEFAULT_CRF

FRAMES_OF_A_SEGMENT = 120
"""About five seconds: as much as a kill loses at most. Each segment costs a key frame, a few percent of the file."""

MAX_OUTPUT_PIXELS = 2**29
"""The most output pixels of a picture: outputs are kept whole in memory as floats, here 6.4 GB."""


@dataclass(frozen=True)
class UpscaleSettings:
    """Settings of the outputs and of the tiles. `output` is a folder, or a file for one picture or film.

    Names get `suffix` (None: `_x4` at scale 4) and keep their extension unless `extension` replaces it. An existing
    file is an error, unless `overwrite` replaces it or `skip_existing` keeps it. `recursive` includes nested folders
    and repeats them in the output folder. `exact` keeps the runtime and precision in which the model was opened;
    otherwise 8-bit pictures may be computed in others (`runtime_choice.RuntimeChoice`). `codec`, `crf` and `segment`
    are those of films (`films.upscale_film`).
    """

    output: str | Path | None = None
    suffix: str | None = None
    extension: str | None = None
    overwrite: bool = False
    skip_existing: bool = False
    recursive: bool = False
    tile: int | None = None
    overlap: int = UNBOUNDED_OVERLAP
    self_ensemble: bool = False
    exact: bool = False
    codec: str | None = None
    crf: int = DEFAULT_CRF
    segment: int = FRAMES_OF_A_SEGMENT

    def __post_init__(self) -> None:
        if self.overwrite and self.skip_existing:
            raise UsageError("--overwrite and --skip-existing contradict each other: give one of them")
        if self.extension is not None and self.extension.lower() not in FORMAT_OF_SUFFIX:
            raise UsageError(f"extension {self.extension!r} is not one of {' '.join(sorted(FORMAT_OF_SUFFIX))}")
        if self.suffix is not None and Path(f"a{self.suffix}").name != f"a{self.suffix}":
            raise UsageError(f"--suffix {self.suffix} is the end of a name and holds no folders: --out chooses one")

    @property
    def output_file(self) -> Path | None:
        path = None if self.output is None else Path(self.output)
        if path is None or path.is_dir():
            return None
        suffix = path.suffix.lower()
        if suffix in (IMAGE_SUFFIXES | OTHER_PICTURE_SUFFIXES) - FORMAT_OF_SUFFIX.keys():
            raise UsageError(f"--out {path}: {suffix} is not written, choose one of {' '.join(FORMAT_OF_SUFFIX)}")
        if suffix in FILM_SUFFIXES - CONTAINER_OF_SUFFIX.keys():
            raise UsageError(f"--out {path}: {suffix} is not written, choose one of {' '.join(CONTAINER_OF_SUFFIX)}")
        if suffix in CONTAINER_OF_SUFFIX:
            return path
        if suffix not in FORMAT_OF_SUFFIX:
            return None
        if self.extension is not None and self.extension.lower() != suffix:
            raise UsageError(f"--out {path} and --extension {self.extension} contradict each other: give one of them")
        return path


@dataclass(frozen=True)
class Job:
    """A picture or film and its output file."""

    source: Path
    output: Path

    @property
    def is_film(self) -> bool:
        return is_film(self.source)


def plan_jobs(inputs: Sequence[Input], settings: UpscaleSettings, scale: int) -> list[Job]:
    """Return the jobs, each with a distinct output; what is found with the name of another one's output is one."""
    folder, file = None if settings.output is None else Path(settings.output), settings.output_file
    if folder is not None:
        require_writable_folder(folder if file is None else file.parent, "--out")
    if file is not None:
        if not inputs:
            return []
        if len(inputs) != 1:
            raise UsageError(f"output {file} is one file, but the inputs are {len(inputs)} pictures")
        source = inputs[0].path
        if is_film(source) != is_film(file):
            kinds = "a picture, and the input a film" if is_film(source) else "a film, and the input a picture"
            raise UsageError(f"--out {file} is {kinds}: choose another suffix")
        return [Job(source, file)]
    suffix = f"_x{scale}" if settings.suffix is None else settings.suffix
    jobs = _numbered(inputs, folder, suffix, settings.extension)
    # A second run over a folder must not enlarge the outputs of the first.
    outputs = {identity(job.output) for job in jobs if job.output != job.source}
    taken = [each for each in inputs if each.is_named or identity(each.path) not in outputs]
    return _numbered(taken, folder, suffix, settings.extension)


def _numbered(inputs: Sequence[Input], folder: Path | None, suffix: str, extension: str | None) -> list[Job]:
    """Return the jobs of some inputs; an output whose name is taken gets a number."""
    used: set[str] = set()
    jobs = []
    for each in inputs:
        source = each.path
        if is_film(source):
            ending = source.suffix if source.suffix.lower() in CONTAINER_OF_SUFFIX else ".mkv"  # which holds all
        else:
            ending = extension or (source.suffix if source.suffix.lower() in FORMAT_OF_SUFFIX else ".png")
        name = f"{source.stem}{suffix}"
        path = first = (source.parent if folder is None else folder / each.inner) / f"{name}{ending}"
        number = 2
        while identity(path) in used:
            path, number = first.with_name(f"{name}-{number}{ending}"), number + 1
        used.add(identity(path))
        jobs.append(Job(source, path))
    return jobs


def to_write(inputs: Sequence[Input], jobs: Sequence[Job], settings: UpscaleSettings) -> tuple[list[Job], Outcomes]:
    """Return the jobs whose output is to be written, and what becomes of the others.

    An input is never written over, even one of an output's name and size: it may be an original of the user's.
    """
    sources, given = {identity(job.source) for job in jobs}, {identity(each.path) for each in inputs}
    left, failed, skipped = list[Job](), list[Failed](), list[SkippedPicture]()
    for job in jobs:
        reason = None
        if identity(job.output) in (sources if settings.skip_existing else given):
            reason = f"{job.output} is one of the inputs: choose another suffix or output folder"
        elif job.output.is_dir():
            reason = f"{job.output} is a folder: choose another suffix or output folder"
        elif job.output.exists() and settings.skip_existing:
            skipped.append(SkippedPicture(job.source, f"{job.output} exists", output_exists=True))
            continue
        elif job.output.exists() and not settings.overwrite:
            reason = (
                f"{job.output} exists: --overwrite replaces it, --skip-existing leaves it alone; or choose another "
                "suffix or output folder"
            )
        if reason is None:
            left.append(job)
        else:
            failed.append(Failed(job.source, reason))
    return left, Outcomes((), failed, skipped)


def require_size(name: object, width: int, height: int, scale: int) -> None:
    if width * height * scale**2 > MAX_OUTPUT_PIXELS:
        raise SrkdError(
            f"{name} would become {width * scale}x{height * scale}, more than the {MAX_OUTPUT_PIXELS:,} pixels "
            "held at once: cut it into pieces"
        )
