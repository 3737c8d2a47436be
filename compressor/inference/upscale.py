"""Upscaling of pictures in files, folders and globs (one bad file never stops the rest, no input is overwritten), of
films, and of images in memory.

The report lists every apparent picture or film that was not enlarged, with the reason.
"""

from __future__ import annotations

import glob
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypeAlias

from torch import Tensor

from compressor.base.context import QUIET, Context
from compressor.base.errors import SrkdError, UsageError
from compressor.base.files import require_writable_folder
from compressor.images.files import Picture, read_picture, require_writable, write_picture
from compressor.images.in_memory import ImageInMemory, Planes, like, read_planes
from compressor.images.resize import upscale_bicubic
from compressor.images.sets import list_images, natural_key
from compressor.images.suffixes import (
    CONTAINER_OF_SUFFIX,
    FILM_SUFFIXES,
    FORMAT_OF_SUFFIX,
    IMAGE_SUFFIXES,
    OTHER_PICTURE_SUFFIXES,
    is_film,
)
from compressor.inference.background import OneBehind, read_ahead
from compressor.inference.films import (
    FRAMES_OF_A_CHOICE,
    FRAMES_OF_A_SEGMENT,
    EnlargedFrame,
    FilmSettings,
    UpscaledFilm,
    film_suffix,
    upscale_film,
)
from compressor.inference.lower_precision import PrecisionChoice, Selected
from compressor.inference.numbers import Numbers, numbers_of
from compressor.inference.super_resolve import super_resolve
from compressor.inference.tiling import UNBOUNDED_OVERLAP, Tiled, WindowProgress
from compressor.runtimes.base import Runtime
from compressor.video.writing import DEFAULT_CRF

MAX_OUTPUT_PIXELS = 2**29
"""The most output pixels of a picture: outputs are kept whole in memory as floats, here 6.4 GB."""

OVERLAPPED_OUTPUT_PIXELS = 2**27
"""Outputs up to this size (1.6 GB) are written while the next picture is enlarged; larger ones are written first."""

TAKEN_SUFFIXES = IMAGE_SUFFIXES | FILM_SUFFIXES
"""Suffixes of the files that a glob takes."""

FileKey: TypeAlias = tuple[str, int, int]
"""A file: its path in lower case, its device and its number there. Hard links are files of their own."""

FAILURES = (SrkdError, RuntimeError, OSError, MemoryError)
"""Exceptions that fail one picture or film while the others continue."""


@dataclass(frozen=True)
class Upscaled:
    """A picture that was written; sizes are (width, height), `tile` and `seam` as in `tiling.Tiled`.

    `precision` is the one used for this picture. If it is lower than the model's own, `psnr_to_exact` is the PSNR in dB
    of its worst sample to that sample in the model's own precision.
    """

    source: Path
    output: Path
    lr_size: tuple[int, int]
    sr_size: tuple[int, int]
    tile: int | None
    seam: float | None
    precision: str
    psnr_to_exact: float | None
    seconds: float


@dataclass(frozen=True)
class Failed:
    """A picture or film that was not enlarged, and the reason."""

    source: Path
    reason: str


@dataclass(frozen=True)
class SkippedPicture:
    """A picture or film that was left out on purpose, or a folder with such pictures, and the reason."""

    source: Path
    reason: str
    output_exists: bool = False
    """True if the output exists already, and `skip_existing` keeps it."""


@dataclass(frozen=True)
class UpscaleReport:
    """The result of `upscale`."""

    done: tuple[Upscaled, ...]
    failed: tuple[Failed, ...]
    skipped: tuple[SkippedPicture, ...]
    numbers: Numbers
    """The model's precision and quantisation; single pictures may have used a lower precision."""
    films: tuple[UpscaledFilm, ...] = ()


@dataclass(frozen=True)
class UpscaleSettings:
    """Settings of the outputs and of the tiles. `output` is a folder, or a file for one picture or film.

    Names get `suffix` (None: `_x4` at scale 4) and keep their extension unless `extension` replaces it. An existing
    file is an error, unless `overwrite` replaces it or `skip_existing` keeps it. `recursive` includes nested folders
    and repeats them in the output folder. `exact` keeps the precision in which the model was opened; otherwise 8-bit
    pictures may be computed in bf16 (`lower_precision.PrecisionChoice`). `codec`, `crf` and `segment` are those of
    films (`films.FilmSettings`).
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
            raise UsageError(f"extension {self.extension!r} is not one of {' '.join(sorted(IMAGE_SUFFIXES))}")
        if self.suffix is not None and Path(f"a{self.suffix}").name != f"a{self.suffix}":
            raise UsageError(f"--suffix {self.suffix} is the end of a name and holds no folders: --out chooses one")

    @property
    def output_file(self) -> Path | None:
        """The single output file, or None if the output is a folder."""
        path = None if self.output is None else Path(self.output)
        if path is None or path.is_dir():
            return None
        suffix = path.suffix.lower()
        if suffix in OTHER_PICTURE_SUFFIXES:
            raise UsageError(f"--out {path}: {suffix} is not written, choose one of {' '.join(sorted(IMAGE_SUFFIXES))}")
        if suffix in FILM_SUFFIXES - CONTAINER_OF_SUFFIX.keys():
            raise UsageError(f"--out {path}: {suffix} is not written, choose one of {' '.join(CONTAINER_OF_SUFFIX)}")
        if suffix in CONTAINER_OF_SUFFIX:
            return path
        if suffix not in IMAGE_SUFFIXES:
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


@dataclass
class Inputs:
    """The pictures and films to enlarge, each file once, keyed by `_file_of`."""

    named: dict[FileKey, Path] = field(default_factory=dict)
    """Pictures that were named individually."""
    listed: dict[FileKey, tuple[Path, Path]] = field(default_factory=dict)
    """Pictures from folders and globs, each with its folder relative to the searched one."""
    failed: list[Failed] = field(default_factory=list)
    """Inputs without any picture."""
    skipped: list[SkippedPicture] = field(default_factory=list)

    def pictures(self) -> list[tuple[Path, Path, bool]]:
        """Return every picture with its relative folder, and whether it was named individually."""
        return [
            *((path, Path(), True) for path in self.named.values()),
            *((path, inner, False) for key, (path, inner) in self.listed.items() if key not in self.named),
        ]


@dataclass(frozen=True)
class Outcomes:
    """What became of some pictures and films."""

    done: Sequence[Upscaled] = ()
    failed: Sequence[Failed] = ()
    skipped: Sequence[SkippedPicture] = ()
    films: Sequence[UpscaledFilm] = ()


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
    given = settings or UpscaleSettings()
    settings = given if given.suffix is not None else replace(given, suffix=f"_x{runtime.descriptor.scale}")
    jobs, contents = _plan_jobs(inputs, settings)
    _require_used(given, jobs)
    do_jobs = do_jobs or partial(upscale_jobs, runtime, context=context)
    outcomes = do_jobs(jobs, settings)
    return UpscaleReport(
        tuple(outcomes.done),
        (*contents.failed, *outcomes.failed),
        (*contents.skipped, *outcomes.skipped),
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
    pictures, films = [job for job in jobs if not job.is_film], [job for job in jobs if job.is_film]
    sources = {_identity(job.source) for job in jobs}
    choice = PrecisionChoice(runtime, exact=settings.exact)
    done = _upscale_pictures(pictures, sources, runtime.descriptor.scale, choice, settings, context)
    failed, skipped, written = [*done.failed], [*done.skipped], list[UpscaledFilm]()
    for job in films:
        try:
            if _has_output(job, settings, sources):
                skipped.append(SkippedPicture(job.source, f"{job.output} exists", output_exists=True))
            else:
                written.append(_upscale_film(job, runtime, choice, settings, context))
        except FAILURES as error:
            failed.append(_failure(job, error))
    return Outcomes(done.done, failed, skipped, written)


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
    film_settings = FilmSettings(settings.codec, settings.crf, settings.segment)
    return upscale_film(job.source, job.output, runtime, enlarge, film_settings, made_with, context)


def _upscale_pictures(
    jobs: Sequence[Job],
    sources: set[str],
    scale: int,
    choice: PrecisionChoice,
    settings: UpscaleSettings,
    context: Context,
) -> Outcomes:
    """Enlarge some pictures. While one is enlarged, the next one is read and the previous one written."""
    failed, skipped = list[Failed](), list[SkippedPicture]()
    progress = context.progress
    writes: list[Future[Upscaled | Failed]] = []
    read = partial(_read, sources=sources, scale=scale, settings=settings)
    with OneBehind() as writer, read_ahead(jobs, read) as pictures:
        for number, (job, reading) in enumerate(pictures, start=1):
            title = job.source.name if len(jobs) == 1 else f"{number}/{len(jobs)} {job.source.name}"
            progress(title, 0, 1)
            try:
                start = time.perf_counter()
                picture = reading.result()
                if picture is None:
                    skipped.append(SkippedPicture(job.source, f"{job.output} exists", output_exists=True))
                    continue
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
    return Outcomes([result for result in results if isinstance(result, Upscaled)], failed, skipped)


def without_outputs(jobs: Sequence[Job], settings: UpscaleSettings) -> tuple[list[Job], Outcomes]:
    """The jobs whose output is to be written, and what becomes of the others."""
    sources = {_identity(job.source) for job in jobs}
    left, failed, skipped = list[Job](), list[Failed](), list[SkippedPicture]()
    for job in jobs:
        try:
            if _has_output(job, settings, sources):
                skipped.append(SkippedPicture(job.source, f"{job.output} exists", output_exists=True))
            else:
                left.append(job)
        except SrkdError as error:
            failed.append(_failure(job, error))
    return left, Outcomes((), failed, skipped)


def _failure(job: Job, error: BaseException) -> Failed:
    return Failed(job.source, " ".join(str(error).split()) or type(error).__name__)


def _read(job: Job, sources: set[str], scale: int, settings: UpscaleSettings) -> Picture | None:
    """Read the picture of a job; None if its output exists and is kept."""
    if _has_output(job, settings, sources):
        return None
    picture = read_picture(job.source)
    height, width = picture.rgb.shape[-2:]
    _require_size(job.source, width, height, scale)
    require_writable(job.output, (width * scale, height * scale), alpha=picture.alpha is not None)
    return picture


def _has_output(job: Job, settings: UpscaleSettings, sources: set[str]) -> bool:
    """Return True if the output exists and is kept; raise an error if the user must decide."""
    if _identity(job.output) in sources:
        raise SrkdError(f"{job.output} is one of the inputs: choose another suffix or output folder")
    if job.output.is_dir():
        raise SrkdError(f"{job.output} is a folder: choose another suffix or output folder")
    if settings.overwrite or not job.output.exists():
        return False
    if settings.skip_existing:
        return True
    raise SrkdError(
        f"{job.output} exists: --overwrite replaces it, --skip-existing leaves it alone; or choose another suffix or "
        "output folder"
    )


def _plan_jobs(inputs: Sequence[str | Path], settings: UpscaleSettings) -> tuple[list[Job], Inputs]:
    """Return the jobs, each with a distinct output, and the inputs they come from."""
    folder, file = None if settings.output is None else Path(settings.output), settings.output_file
    if folder is not None:
        require_writable_folder(folder if file is None else file.parent, "--out")
    contents = _collect(inputs, recursive=settings.recursive, output=folder)
    pictures = contents.pictures()
    if file is not None:
        if not pictures and contents.failed:
            return [], contents
        if len(pictures) != 1:
            raise UsageError(f"output {file} is one file, but the inputs are {len(pictures)} pictures")
        if is_film(pictures[0][0]) != is_film(file):
            kinds = "a picture, and the input a film" if is_film(pictures[0][0]) else "a film, and the input a picture"
            raise UsageError(f"--out {file} is {kinds}: choose another suffix")
        return [Job(pictures[0][0], file)], contents
    # A second run over a folder must not enlarge the outputs of the first.
    outputs = {}
    for source, inner, _ in pictures:
        extension = settings.extension or (source.suffix if source.suffix.lower() in IMAGE_SUFFIXES else ".png")
        if is_film(source):
            extension = film_suffix(source)
        beside = source.parent if folder is None else folder / inner
        outputs[source] = beside / f"{source.stem}{settings.suffix}{extension}"
    earlier = {_identity(path) for source, path in outputs.items() if _identity(path) != _identity(source)}
    listed = {_identity(source) for source, _, is_named in pictures if not is_named}
    while True:
        taken = [source for source, _, is_named in pictures if is_named or _identity(source) not in earlier]
        jobs = _numbered(taken, outputs)
        # Outputs with numbers, which are known only now.
        more = {_identity(job.output) for job in jobs if job.output != job.source} & listed - earlier
        if not more:
            return jobs, contents
        earlier |= more


def _numbered(sources: Sequence[Path], outputs: Mapping[Path, Path]) -> list[Job]:
    """Return the jobs of some sources; an output whose name is taken gets a number."""
    used: set[str] = set()
    jobs = []
    for source in sources:
        first = path = outputs[source]
        number = 2
        while _identity(path) in used:
            path, number = first.with_name(f"{first.stem}-{number}{first.suffix}"), number + 1
        used.add(_identity(path))
        jobs.append(Job(source, path))
    return jobs


def _collect(inputs: Sequence[str | Path], *, recursive: bool, output: Path | None) -> Inputs:
    """Return the inputs sorted into named pictures, those from folders and globs, failures and skipped files."""
    contents = Inputs()
    for text in inputs:
        path = Path(text)
        if path.is_file():
            contents.named.setdefault(_file_of(path), path)
            continue
        if path.is_dir():
            pictures, reason = _search_folder(path, contents, recursive=recursive, output=output)
        else:
            # Path.glob does not accept absolute patterns.
            matches = sorted(map(Path, glob.glob(str(text), recursive=True)), key=natural_key)  # noqa: PTH207
            files = [match for match in matches if match.is_file()]
            pictures = [(match, Path()) for match in files if match.suffix.lower() in TAKEN_SUFFIXES]
            contents.skipped += _of_other_kinds(files)
            reason = f"no picture matches {text}" if glob.has_magic(str(text)) else f"{text} does not exist"
        if not pictures:
            contents.failed.append(Failed(path, reason))
        for picture, inner in pictures:
            contents.listed.setdefault(_file_of(picture), (picture, inner))
    return contents


def _search_folder(
    folder: Path, contents: Inputs, *, recursive: bool, output: Path | None
) -> tuple[list[tuple[Path, Path]], str]:
    """Return the pictures of a folder, each with its relative folder, and the error message if there are none.

    Nested folders are searched with `recursive`; otherwise the report names those with pictures.
    """
    pictures: list[tuple[Path, Path]] = []
    nested: dict[Path, int] = {}
    where_outputs_go = None if output is None else _identity(output)
    for place, inside, _ in os.walk(folder):
        here = Path(place)
        # Leave out hidden folders, as hidden files are, and the outputs of an earlier run.
        inside[:] = sorted(
            name for name in inside if not name.startswith(".") and _identity(here / name) != where_outputs_go
        )
        images, inner = list_images(here), here.relative_to(folder)
        if recursive:
            links = (here / name for name in inside if (here / name).is_symlink())
            contents.skipped += [
                SkippedPicture(link, "a link to a folder is not followed: name it too") for link in links
            ]
        if recursive or here == folder:
            pictures += [(image, inner) for image in images]
            files = sorted(here.iterdir(), key=natural_key)
            contents.skipped += [*_of_other_kinds(files), *_films_in_folders(files)]
        elif images:
            top = folder / inner.parts[0]
            nested[top] = nested.get(top, 0) + len(images)
    contents.skipped += [
        SkippedPicture(
            inner, f"a folder inside {folder}, with {count_pictures(count)}: --recursive takes folders inside too"
        )
        for inner, count in nested.items()
    ]
    reason = f"no picture in the folder {folder}"
    if nested:
        reason += f", but {count_pictures(sum(nested.values()))} in folders inside it: --recursive takes them"
    return pictures, reason


def _of_other_kinds(files: Sequence[Path]) -> list[SkippedPicture]:
    return [
        SkippedPicture(
            path, f"{path.suffix.lower()} files are not read: convert it to one of {', '.join(FORMAT_OF_SUFFIX)}"
        )
        for path in files
        if path.suffix.lower() in OTHER_PICTURE_SUFFIXES and not path.name.startswith(".")
    ]


def _films_in_folders(files: Sequence[Path]) -> list[SkippedPicture]:
    """A film takes hours, so one that only lies in the folder of pictures is not begun."""
    return [
        SkippedPicture(path, "a film in a folder is not enlarged: name it too")
        for path in files
        if is_film(path) and not path.name.startswith(".")
    ]


def count_pictures(count: int) -> str:
    return f"{count} picture" if count == 1 else f"{count} pictures"


def _identity(path: Path) -> str:
    """Return one key for all names of an output that some disks take for one: they ignore upper and lower case."""
    return str(path.resolve()).lower()


def _file_of(path: Path) -> FileKey:
    """Return one key per input: `a.png` and `A.png` are one file or two, as the disk says."""
    status = path.stat()
    return _identity(path), status.st_dev, status.st_ino


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
