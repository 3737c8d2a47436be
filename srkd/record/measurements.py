"""What `srkd profile` and `srkd export` leave in a folder, profile.json and exports.json: the values that are shown.

The writers of both files keep more than is read here, so other keys are passed over.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from pydantic import AliasPath, ConfigDict, Field

from compressor.base.context import Note
from compressor.base.errors import SrkdError
from compressor.base.files import file_sha256
from compressor.base.machine import count_threads, machine_facts
from compressor.models.checkpoints.header import RUN_FOLDER_WEIGHTS
from export.writing.record import RECORD as EXPORTS
from srkd.record.reading import Entry, parse, printable, read_object, write_object
from srkd.terminal.console import json_value

PROFILE = "profile.json"


class Excerpt(Entry):
    """The values of an object that are read; other keys are passed over."""

    model_config = ConfigDict(extra="ignore")


ExcerptT = TypeVar("ExcerptT", bound=Excerpt)


class ProfiledRow(Excerpt):
    """Time of one network in one runtime at one size, with its conditions."""

    model: str
    runtime: str
    device: str
    precision: str
    lr_size: str
    batch: int = 1
    threads: int = 1
    ms: float = Field(validation_alias=AliasPath("latency_ms", "p50"), gt=0)
    """Median time of a batch."""
    fps: float | None = None
    speedup: float | None = Field(None, validation_alias="speedup_same_runtime")
    """Speed-up over the teacher in the same runtime."""
    over_eager: float | None = Field(None, validation_alias="speedup_vs_teacher_eager")
    """Speed-up over the teacher in torch."""
    verdict: str | None = None
    bounded: bool | None = Field(None, validation_alias=AliasPath("int8", "bounded"))
    """False for an int8 file without a bound on its loss: its quality is not that of the scored student."""

    @property
    def arithmetic(self) -> str:
        return f"{self.precision} unbounded" if self.bounded is False else self.precision

    @property
    def conditions(self) -> str:
        """The conditions of the measurement, such as `torch fp32, cpu, 1 thread, LR 128x128, batch 1`."""
        threads = count_threads(self.threads)
        return f"{self.runtime} {self.arithmetic}, {self.device}, {threads}, LR {self.lr_size}, batch {self.batch}"


class ProfileFile(Excerpt):
    """profile.json: the last profile of a folder, valid for the weights of this hash."""

    student_sha256: str
    teacher: str | None = None
    rows: tuple[ProfiledRow, ...]
    notes: tuple[str, ...] = ()
    processor: str | None = Field(None, validation_alias=AliasPath("machine", "cpu"))

    @property
    def of_student(self) -> list[ProfiledRow]:
        """The rows of the student, without unbounded int8 files."""
        return [row for row in self.rows if row.model != self.teacher and row.bounded is not False]

    @property
    def main(self) -> ProfiledRow | None:
        """A row of the student with a speed-up over the teacher in the same runtime, preferably torch."""
        rows = [row for row in self.of_student if row.speedup is not None]
        return next((row for row in rows if row.runtime == "torch"), rows[0] if rows else None)

    @property
    def fastest(self) -> ProfiledRow | None:
        """The student's row with the largest speed-up over the teacher in torch."""
        rows = [row for row in self.of_student if row.over_eager is not None]
        return max(rows, key=lambda row: row.over_eager or 0.0, default=None)


class MeasuredDifference(Excerpt):
    """The difference of a file from its network; `psnr` is None if they are equal."""

    max_abs: float
    psnr: float | None
    on: str = "one of its images"
    """The image of the largest difference."""


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
    drop_db: float | None = Field(None, validation_alias=AliasPath("quality", "drop"))
    """Loss of Y-PSNR in int8 on a number of photos."""
    photos: int | None = Field(None, validation_alias=AliasPath("quality", "photos"))
    speed: str | None = Field(None, validation_alias=AliasPath("speed", "sentence"))
    """Comparison of its speed with float in a sentence, measured on `processor`."""
    processor: str | None = Field(None, validation_alias=AliasPath("machine", "cpu"))


class ExportsFile(Excerpt):
    """exports.json: the results of all exported files by their names."""

    files: dict[str, ExportedEntry]


def write_profile(run: Path, report: object, note: Note) -> None:
    """Write a profile of a run folder's student to the folder; a note says if that is impossible."""
    body = json_value(report)
    assert isinstance(body, Mapping)
    sha256 = file_sha256(run / RUN_FOLDER_WEIGHTS)
    record = {"schema": "srkd.profile/1", **body, "machine": machine_facts(), "student_sha256": sha256}
    write_object(run / PROFILE, record, note, "the profile is not kept for srkd report")


def read_profile(run: Path, student_sha256: str | None) -> ProfileFile | None:
    """The stored profile of these weights; None without one."""
    record = None if student_sha256 is None else _read(ProfileFile, run / PROFILE, "remove it, and profile again")
    return record if record is not None and record.rows and record.student_sha256 == student_sha256 else None


def read_exports(run: Path) -> dict[str, ExportedEntry]:
    """The entries of exports.json whose files are in this folder, in the order of their names."""
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
