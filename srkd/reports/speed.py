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
from srkd.record.measurements import PROFILE, ProfiledRow, read_profile
from srkd.terminal.console import json_value

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
    path, student = run / PROFILE, run / STUDENT
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
    record = None if student_sha256 is None else read_profile(run)
    if record is None or record.student_sha256 != student_sha256:
        return None
    timings = tuple(_timing(row, record.teacher) for row in record.rows if row.latency_ms.p50 > 0)
    return SpeedTable(timings, record.machine.cpu, record.notes) if timings else None


def _timing(row: ProfiledRow, teacher: str | None) -> SpeedRow:
    unbounded = row.int8 is not None and row.int8.bounded is False
    return SpeedRow(
        model=row.model,
        is_teacher=row.model == teacher,
        runtime=row.runtime,
        device=row.device,
        precision=row.precision + (" unbounded" if unbounded else ""),
        lr_size=row.lr_size,
        batch=row.batch,
        threads=row.threads,
        ms=row.latency_ms.p50,
        fps=row.fps,
        speedup=row.speedup_same_runtime,
        verdict=row.verdict,
        over_eager=row.speedup_vs_teacher_eager,
        unbounded=unbounded,
    )
