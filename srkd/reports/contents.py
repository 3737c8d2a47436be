"""The facts of a run folder, read from its files. No model is opened; a missing fact is None."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from compressor.base.choices import Goal
from compressor.base.files import file_sha256
from compressor.base.interrupts import resume_command
from compressor.models.checkpoints.header import RUN_FOLDER_WEIGHTS
from srkd.record.measurements import ExportedEntry, read_exports
from srkd.record.run_file import RunFile, find_run_file, read_for_display
from srkd.record.scores import Score, ScoreRole, of_role, scores_of
from srkd.reports.curves import Metrics


@dataclass(frozen=True)
class Contents:
    """The contents of one run folder."""

    path: Path
    file: RunFile
    unfinished: str | None
    """What an unfinished run lacks; None for a finished run."""
    scores: tuple[Score, ...]
    metrics: tuple[Metrics, ...]
    files: tuple[tuple[str, ExportedEntry, str | None], ...]
    """Each exported file: its name, the results of its export, and why these no longer hold; None if they do."""
    student_sha256: str | None
    goal: Goal
    """What the run was judged by, and figures and charts are about."""

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def recipe(self) -> str:
        return self.file.recipe if self.file.result is None else self.file.result.recipe

    @property
    def protocol(self) -> str | None:
        return None if self.file.result is None else self.file.result.protocol

    def unfinished_line(self, folder: str) -> str | None:
        """What an unfinished run lacks, and the command that continues it in `folder`."""
        if self.unfinished is None or self.file.is_finished:
            return self.unfinished
        return f"{self.unfinished} {resume_command(folder)} continues it."

    def score(self, role: ScoreRole) -> Score | None:
        return of_role(self.scores, role)


def read_contents(run: Path) -> Contents:
    file = read_for_display(run)
    folders = [run / name for name in file.run_names]
    metrics = tuple(rows for folder in (run, *folders) if (rows := Metrics.read(folder)) is not None)
    student, result = run / RUN_FOLDER_WEIGHTS, file.result
    finished = result is not None and student.is_file()
    scores = tuple(scores_of(result)) if result is not None and finished else ()
    return Contents(
        path=run,
        file=file,
        unfinished=None if finished else _unfinished(file, metrics, folders),
        scores=scores,
        metrics=metrics,
        files=tuple((name, entry, _outdated(run / name, entry)) for name, entry in read_exports(run).items()),
        student_sha256=file_sha256(student) if student.is_file() else None,
        goal=file.goal if result is None else result.goal,
    )


def _unfinished(file: RunFile, metrics: Sequence[Metrics], folders: Sequence[Path]) -> str:
    if file.is_finished:
        return f"The run is finished, but {RUN_FOLDER_WEIGHTS} is missing from its folder."
    where = f"step {max((rows.last_step for rows in metrics), default=0):,}"
    if folders:
        files = map(find_run_file, folders)
        where = f"run {1 + sum(other is not None and other.is_finished for other in files)} of {len(folders)}"
    return f"This run is not finished: it is at {where}."


def _outdated(file: Path, entry: ExportedEntry) -> str | None:
    if not file.exists():
        return "the file is gone"
    if entry.sha256 is not None and (not file.is_file() or file_sha256(file) != entry.sha256):
        return "the file has changed since it was compared"
    student, source = file.parent / RUN_FOLDER_WEIGHTS, entry.source_sha256
    if source is not None and student.is_file() and file_sha256(student) != source:
        return "made from other weights than the student's"
    return None
