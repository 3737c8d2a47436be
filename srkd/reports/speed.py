"""The measured speed of a run's student: profile.json in its folder, from the last profile.

The record is valid for the weights that were timed; if they change, the student is measured again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from compressor.base.context import Note
from compressor.base.errors import Unwritable
from compressor.base.files import atomic_path, file_sha256
from compressor.base.machine import count_threads, machine_facts
from compressor.training.run_folder import STUDENT
from srkd.reports.untrusted import Facts
from srkd.terminal.console import json_value

RECORD = "profile.json"
SCHEMA = "srkd.profile/1"
STUDENT_SHA256 = "student_sha256"


@dataclass(frozen=True)
class SpeedRow:
    """Time of one network in one runtime at one size, with its conditions."""

    model: str
    is_teacher: bool
    runtime: str
    device: str
    precision: str
    lr_size: str
    batch: int
    threads: int
    ms: float
    fps: float | None
    speedup: float | None
    """Speed-up over the teacher in the same runtime."""
    verdict: str | None
    over_eager: float | None
    """Speed-up over the teacher in torch."""
    unbounded: bool = False
    """True for an int8 file without a bound on its loss: its quality is not that of the scored student."""

    @property
    def conditions(self) -> str:
        """Return the conditions of the measurement, such as `torch fp32, cpu, 1 thread, LR 128x128, batch 1`."""
        threads = count_threads(self.threads)
        return f"{self.runtime} {self.precision}, {self.device}, {threads}, LR {self.lr_size}, batch {self.batch}"


@dataclass(frozen=True)
class SpeedTable:
    """The rows of a profile, the processor of the measurement, and notes on disturbances."""

    timings: tuple[SpeedRow, ...]
    processor: str | None
    notes: tuple[str, ...]

    @property
    def students(self) -> list[SpeedRow]:
        """Return the rows of the student, without unbounded int8 files."""
        return [row for row in self.timings if not row.is_teacher and not row.unbounded]

    @property
    def main(self) -> SpeedRow | None:
        """Return a row of the student with a speed-up over the teacher in the same runtime, preferably torch."""
        rows = [row for row in self.students if row.speedup is not None]
        return next((row for row in rows if row.runtime == "torch"), rows[0] if rows else None)

    @property
    def fastest(self) -> SpeedRow | None:
        """Return the student's row with the largest speed-up over the teacher in torch."""
        rows = [row for row in self.students if row.over_eager is not None]
        return max(rows, key=lambda row: row.over_eager or 0.0, default=None)


def write_speed(run: Path, report: object, note: Note) -> None:
    """Write a profile of a run folder's student to the folder; note if that is impossible."""
    path, student = run / RECORD, run / STUDENT
    body = json_value(report)
    assert isinstance(body, Mapping)
    record = {"schema": SCHEMA, **body, "machine": machine_facts(), STUDENT_SHA256: file_sha256(student)}
    try:
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    except Unwritable as error:
        note(f"the profile is not kept for srkd report: {error}")


def read_speed(run: Path, student_sha256: str | None) -> SpeedTable | None:
    """Return the stored profile of these weights; None without one."""
    record = Facts.read(run / RECORD)
    if student_sha256 is None or record.text(STUDENT_SHA256) != student_sha256:
        return None
    teacher = record.text("teacher")
    timings = tuple(timing for row in record.items("rows") if (timing := _timing(row, teacher)) is not None)
    return SpeedTable(timings, record.text("machine", "cpu"), record.texts("notes")) if timings else None


def _timing(row: Facts, teacher: str | None) -> SpeedRow | None:
    model, ms = row.text("model"), row.number("latency_ms", "p50")
    if model is None or ms is None or ms <= 0:
        return None
    unbounded = row.at("int8", "bounded").value is False
    return SpeedRow(
        model=model,
        is_teacher=model == teacher,
        runtime=row.text("runtime") or "unknown",
        device=row.text("device") or "unknown",
        precision=(row.text("precision") or "unknown") + (" unbounded" if unbounded else ""),
        lr_size=row.text("lr_size") or "unknown",
        batch=row.count("batch") or 1,
        threads=row.count("threads") or 1,
        ms=ms,
        fps=row.number("fps"),
        speedup=row.number("speedup_same_runtime"),
        verdict=row.text("verdict"),
        over_eager=row.number("speedup_vs_teacher_eager"),
        unbounded=unbounded,
    )
