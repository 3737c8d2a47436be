"""What `srkd profile` was asked for: models, their teacher, and how to measure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from compressor.assets import embedded_teacher
from compressor.base.context import Note, Progress, no_note, no_progress
from compressor.base.errors import SrkdError
from compressor.base.files import file_sha256
from export.contestants import Settings
from export.profiling import ProfileReport, profile_models

RUN_FACTS = "run.json"


@dataclass(frozen=True)
class Profiling:
    """Models against a teacher; a single run folder brings its own teacher, if that file is still there."""

    models: Sequence[str | Path]
    teacher: str | Path | None = None
    settings: Settings = field(default_factory=Settings)

    def run(self, progress: Progress = no_progress, announce: Note = no_note) -> ProfileReport:
        """Measure everything in turns."""
        teacher, settings = self.teacher, self.settings
        if teacher is None and len(self.models) == 1:
            found = teacher_of_run(Path(self.models[0]), announce)
            if found is not None:
                teacher = found.path
                # The student's own file says everything; what was said of the teacher holds for the teacher.
                said = {**found.options, **(settings.arch_options or {})}
                scale = found.scale if settings.scale is None else settings.scale
                settings = replace(settings, scale=scale, arch_options=None, teacher_options=said)
        return profile_models(self.models, teacher=teacher, settings=settings, progress=progress)


@dataclass(frozen=True)
class RunTeacher:
    """The teacher that a run folder was distilled from, the scale it was used at, and what was said of its file."""

    path: Path
    scale: int | None
    options: Mapping[str, object]


def teacher_of_run(run: Path, announce: Note) -> RunTeacher | None:
    """The teacher named in run.json, if its bytes are what they were."""
    facts_file = run / RUN_FACTS
    if not facts_file.is_file():
        return None
    try:
        facts: Any = json.loads(facts_file.read_text(encoding="utf-8"))
        told = facts["teacher"]
        if told is None:
            return None
        path, sha256, scale = Path(told["path"]), str(told["sha256"]), facts["student"].get("scale")
        options = dict(told.get("options") or {})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SrkdError(f"{facts_file} does not say what the teacher was ({error}): give --teacher FILE") from error
    for candidate in (path, embedded_teacher()):
        if candidate.is_file() and file_sha256(candidate) == sha256:
            announce(f"teacher: {candidate}, from {facts_file}")
            return RunTeacher(candidate, scale, options)
    announce(f"the teacher of {run}, {path}, is gone or has changed: going on without it (--teacher FILE names one)")
    return None
