"""What `srkd profile` and `srkd export` leave in a folder, profile.json and exports.json: the values that are shown.

The writers of both files keep more than is read here, so other keys are passed over.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import ConfigDict

from compressor.base.errors import SrkdError
from export.writing.record import RECORD as EXPORTS
from srkd.record.reading import Entry, parse, printable, read_object

PROFILE = "profile.json"


class Excerpt(Entry):
    """The values of an object that are read; other keys are passed over."""

    model_config = ConfigDict(extra="ignore")


ExcerptT = TypeVar("ExcerptT", bound=Excerpt)


class Processor(Excerpt):
    """The machine of a measurement."""

    cpu: str | None = None


class MedianTime(Excerpt):
    """The median time of a batch in milliseconds."""

    p50: float


class Bound(Excerpt):
    """Whether the loss of a file in eight bits was bounded when it was made; None: unknown."""

    bounded: bool | None = None


class ProfiledRow(Excerpt):
    """One network in one runtime at one size."""

    model: str
    runtime: str
    device: str
    precision: str
    lr_size: str
    batch: int = 1
    threads: int = 1
    latency_ms: MedianTime
    fps: float | None = None
    speedup_same_runtime: float | None = None
    speedup_vs_teacher_eager: float | None = None
    verdict: str | None = None
    int8: Bound | None = None


class ProfileFile(Excerpt):
    """profile.json, valid for the weights of this hash."""

    student_sha256: str
    teacher: str | None = None
    rows: tuple[ProfiledRow, ...]
    notes: tuple[str, ...] = ()
    machine: Processor = Processor()


class MeasuredDifference(Excerpt):
    """The difference of a file from its network; `psnr` is None if they are equal."""

    max_abs: float
    psnr: float | None


class MeasuredLoss(Excerpt):
    """The loss of a file in eight bits on photos."""

    drop: float
    photos: int


class MeasuredSpeed(Excerpt):
    """The speed of a file in eight bits against float, in a sentence."""

    sentence: str


class ExportedEntry(Excerpt):
    """The results of one exported file, valid for the file of this hash."""

    format: str
    precision: str
    bytes: int | None
    sha256: str | None
    source_sha256: str | None
    verdict: str
    reason: str | None
    parity: MeasuredDifference | None
    quality: MeasuredLoss | None
    speed: MeasuredSpeed | None
    machine: Processor


class ExportsFile(Excerpt):
    """exports.json: the results of all exported files by their names."""

    files: dict[str, ExportedEntry]


def read_profile(run: Path) -> ProfileFile | None:
    """Return profile.json of a folder; None if it has none."""
    return _read(ProfileFile, run / PROFILE, "remove it, and profile again")


def read_exports(run: Path) -> dict[str, ExportedEntry]:
    """Return the entries of exports.json whose files are in this folder, in the order of their names."""
    record = _read(ExportsFile, run / EXPORTS, "remove it, and export again")
    files = {} if record is None else record.files
    return {name: files[name] for name in sorted(files) if Path(name).name == name}


def _read(model: type[ExcerptT], file: Path, remedy: str) -> ExcerptT | None:
    if not file.is_file():
        return None
    try:
        return parse(model, printable(read_object(file)), file)
    except SrkdError as error:
        raise SrkdError(f"{error}; {remedy}") from error
