"""The teacher of a run folder: the file that run.json names, if it is still there."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from compressor.assets import embedded_teacher
from compressor.base.context import Note
from compressor.base.errors import SrkdError
from compressor.models.checkpoints.header import RUN_FOLDER_FACTS, checkpoint_sha256
from srkd.record.run_file import find_run_file
from srkd.record.run_spec import TeacherFile


@dataclass(frozen=True)
class RunTeacher:
    """The teacher of a run folder, its scale there, and the options with which its file was read."""

    path: Path
    scale: int
    options: Mapping[str, object]


def find_run_teacher(run: Path, note: Note) -> RunTeacher | None:
    try:
        contents = find_run_file(run)
    except SrkdError as error:
        raise SrkdError(f"{error}; it does not say what the teacher was: give --teacher FILE") from error
    if contents is None or contents.teacher is None:
        return None
    teacher, scale = contents.teacher, contents.student.scale
    path = find_teacher_file(teacher)
    if path is not None:
        note(f"teacher: {path}, from {run / RUN_FOLDER_FACTS}")
        return RunTeacher(path, scale, teacher.options)
    note(
        f"the teacher of {run}, {teacher.path}, is missing or has changed: continuing without it "
        "(--teacher FILE names one)"
    )
    return None


def find_teacher_file(teacher: TeacherFile) -> Path | None:
    """The file of a run's teacher, if it is there and unchanged."""
    for path in (teacher.path, embedded_teacher()):
        with suppress(SrkdError):  # a network of ncnn without its weights
            if path.is_file() and checkpoint_sha256(path) == teacher.sha256:
                return path
    return None
