"""The facts of a run folder, read from its files. No model is opened; a missing fact is None."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from compressor.base.files import file_sha256
from compressor.training.run_folder import FACTS, STUDENT
from srkd.record.measurements import ExportedEntry, read_exports
from srkd.record.result import CompressReport, Quality
from srkd.record.run_file import RunFile, read_for_display
from srkd.record.trials import Spread
from srkd.reports.curves import Metrics

Role = Literal["teacher", "student", "baseline", "start", "bicubic"]


@dataclass(frozen=True)
class Score:
    """A row of the table: a network's cost, and its Y-PSNR in dB on the validation images over a number of seeds."""

    name: str
    role: Role
    params: int | None
    macs: int | None
    psnr_y: float | None
    sd: float | None = None
    seeds: int = 1

    @property
    def spread(self) -> str:
        return "unknown" if self.psnr_y is None else str(Spread(self.psnr_y, self.sd))


@dataclass(frozen=True)
class ExportedFile:
    """An exported file and the results of its export."""

    name: str
    results: ExportedEntry
    outdated: str | None
    """Why the results no longer hold for the file; None if they do."""


@dataclass(frozen=True)
class Contents:
    """The contents of one run folder."""

    path: Path
    file: RunFile
    first: RunFile
    """run.json of a plan's first run while that of the plan has few facts; otherwise `file`."""
    unfinished: str | None
    """Line saying what an unfinished run lacks; None for a finished run."""
    scores: tuple[Score, ...]
    metrics: tuple[Metrics, ...]
    files: tuple[ExportedFile, ...]
    student_sha256: str | None

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def recipe(self) -> str:
        return self.first.recipe or "unknown" if self.file.result is None else self.file.result.recipe

    @property
    def validation(self) -> tuple[str, ...]:
        """The names of the validation images."""
        return () if self.first.data is None else self.first.data.validation

    @property
    def protocol(self) -> str | None:
        return None if self.file.result is None else self.file.result.protocol

    def score(self, role: Role) -> Score | None:
        """The first row of a role."""
        return next((score for score in self.scores if score.role == role), None)


def read_contents(run: Path) -> Contents:
    """Read a run folder, or the folder of a plan of runs."""
    file = read_for_display(run)
    folders = [run / name for name in file.run_names]
    has_facts = file.student is not None or not folders or not (folders[0] / FACTS).exists()
    first = file if has_facts else read_for_display(folders[0])
    metrics = tuple(rows for folder in (run, *folders) if (rows := Metrics.read(folder)) is not None)
    student, result = run / STUDENT, file.result
    finished = result is not None and student.is_file()
    return Contents(
        path=run,
        file=file,
        first=first,
        unfinished=None if finished else _unfinished(run, file, first, metrics, folders),
        scores=tuple(_finished_scores(result) if result is not None and finished else _scores_so_far(metrics)),
        metrics=metrics,
        files=tuple(
            ExportedFile(name, entry, _outdated(run / name, entry)) for name, entry in read_exports(run).items()
        ),
        student_sha256=file_sha256(student) if student.is_file() else None,
    )


def _unfinished(run: Path, file: RunFile, first: RunFile, metrics: Sequence[Metrics], folders: Sequence[Path]) -> str:
    """A line with the progress of an unfinished run and the command that continues it."""
    if file.is_finished:
        return f"The run is finished, but {STUDENT} is missing from its folder."
    done = max((rows.last_step for rows in metrics), default=0)
    steps = None if first.preset is None else first.preset.schedule.steps
    where = f"step {done:,}" + (f" of {steps:,}" if steps and not folders else "")
    if folders:
        where = f"run {sum((folder / FACTS).is_file() for folder in folders)} of {len(folders)}"
    return f"This run is not finished: it is at {where}. srkd compress --resume {run.resolve().name} continues it."


def _finished_scores(result: CompressReport) -> list[Score]:
    """The scores of teacher, student, baselines, the student's start, and bicubic."""
    params, macs = _cost(result.student)
    rows = []
    teachers = {"teacher": result.teacher, "teacher, trained with the student": result.teacher_joint}
    rows += [_score(name, "teacher", quality) for name, quality in teachers.items() if quality is not None]
    if result.trials is None:
        rows.append(_score(", ".join(filter(None, ("student", result.quantisation))), "student", result.student))
    else:
        for index, row in enumerate(result.trials.rows):
            role: Role = "baseline" if index else "student"
            name = f"student ({row.name})" if role == "student" else row.name
            rows.append(Score(name, role, params, macs, _finite(row.mean), row.sd, len(row.psnr_y)))
    if result.untrained is not None:
        before = {"its start": result.untrained.student, "a slice of the teacher": result.untrained.slice}
        rows += [Score(f"{name}, untrained", "start", params, macs, _finite(psnr)) for name, psnr in before.items()]
    if result.float_student is not None:
        rows.append(_score("student before it was quantised", "baseline", result.float_student))
    return [*rows, _score("bicubic", "bicubic", result.bicubic)]


def _score(name: str, role: Role, quality: Quality) -> Score:
    return Score(name, role, *_cost(quality), _finite(quality.psnr_y))


def _cost(quality: Quality) -> tuple[int | None, int | None]:
    """The parameters and MACs of a network; None for each without a network."""
    return (None, None) if quality.cost is None else (quality.cost.params, quality.cost.macs)


def _finite(psnr_y: float) -> float | None:
    """A score that can be drawn; None for the infinite one of equal images."""
    return psnr_y if math.isfinite(psnr_y) else None


def _scores_so_far(metrics: Sequence[Metrics]) -> list[Score]:
    """The scores of the newest validation in the first run of an unfinished folder."""
    rows = [row for row in metrics[0].rows if row.kind == "validation"] if metrics else []
    if not rows:
        return []
    newest = rows[-1]
    names: dict[Role, str] = {"teacher": "teacher", "student": f"student at step {newest.step:,}", "bicubic": "bicubic"}
    scores: dict[Role, float | None] = {role: newest.numbers.get(f"{role}_psnr_y") for role in names}
    return [Score(names[role], role, None, None, psnr_y) for role, psnr_y in scores.items() if psnr_y is not None]


def _outdated(file: Path, entry: ExportedEntry) -> str | None:
    if not file.exists():
        return "the file is gone"
    if entry.sha256 is not None and (not file.is_file() or file_sha256(file) != entry.sha256):
        return "the file has changed since it was compared"
    student, source = file.parent / STUDENT, entry.source_sha256
    if source is not None and student.is_file() and file_sha256(student) != source:
        return "made from other weights than the student's"
    return None
