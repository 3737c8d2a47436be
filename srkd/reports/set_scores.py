"""The scores of students on benchmark sets, beside bicubic and their teachers, by the path of `srkd evaluate`.

What a run folder keeps is not computed again. Importing this module does not import torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

from compressor.base.choices import Goal
from compressor.base.context import Context
from compressor.base.errors import SrkdError, UsageError
from compressor.base.files import file_sha256
from compressor.images.protocol import Protocol
from compressor.images.scores import both_goals
from compressor.images.sets import ImageSet
from compressor.inference.metric_table import DEFAULT_METRICS
from compressor.models.checkpoints.header import RUN_FOLDER_WEIGHTS
from compressor.runtimes.table import OpenOptions
from srkd.options.verbs import CompareOptions
from srkd.record.evaluations import (
    BICUBIC,
    EVALUATIONS,
    KeptScores,
    ScoringConditions,
    images_digest,
    read_evaluations,
    software,
    write_evaluations,
)
from srkd.record.run_file import TeacherFile
from srkd.record.run_teacher import find_teacher_file
from srkd.reports.methods import Trained

if TYPE_CHECKING:
    from compressor.inference.evaluate import Evaluation
    from compressor.runtimes.base import Runtime

SetFigures: TypeAlias = Mapping[str, Mapping[str, float]]
"""The figures of a model, by set and key."""


@dataclass(frozen=True)
class Student:
    """A finished run, and the hash of its student."""

    run: Trained
    sha256: str

    @property
    def teacher(self) -> TeacherFile | None:
        return self.run.file.teacher


@dataclass(frozen=True)
class SetScores:
    """The scores of models on sets, by the SHA-256 of their files."""

    conditions: Mapping[str, ScoringConditions]
    """What decides the scores on each set, by the set's name."""
    entries: Mapping[tuple[str, ScoringConditions], KeptScores]

    def of(self, model: str) -> SetFigures:
        """The figures of a model; none if its file is gone."""
        rows = {name: self.entries.get((model, each)) for name, each in self.conditions.items()}
        return {name: row.figures for name, row in rows.items() if row is not None}

    def lr_of(self, name: str) -> str:
        """The origin of a set's LR images."""
        return self.entries[BICUBIC, self.conditions[name]].lr


def read_student(run: Trained) -> Student:
    return Student(run, file_sha256(run.folder / RUN_FOLDER_WEIGHTS))


@dataclass(frozen=True)
class Scoring:
    """Students to be scored on sets at one scale, with bicubic and their teachers."""

    students: Sequence[Student]
    sets: Sequence[ImageSet]
    scale: int
    goal: Goal
    options: CompareOptions
    context: Context

    @property
    def protocol(self) -> Protocol:
        options = self.options
        return Protocol(border=options.border, lr_border=options.lr_border, grey=options.grey).at(self.scale)

    @property
    def references(self) -> tuple[Goal, ...]:
        """What images are compared with, the goal first."""
        return ("original",) if self.goal == "original" else both_goals(self.goal)

    @cached_property
    def teachers(self) -> Mapping[str, TeacherFile]:
        """The distinct teachers of the students, by the SHA-256 of their files."""
        return {student.teacher.sha256: student.teacher for student in self.students if student.teacher is not None}

    @cached_property
    def against(self) -> str | None:
        """The teacher whose images are compared with, if the students are judged by it."""
        if self.goal == "original":
            return None
        if len(self.teachers) != 1:
            raise UsageError(
                f"students of {len(self.teachers)} teachers cannot be compared by their distance to the teacher: "
                "name runs of one teacher"
            )
        return next(iter(self.teachers))

    def scores(self) -> SetScores:
        """The scores of all models that are there; new ones are kept in the run folders."""
        options, folders = self.options, {student.run.folder: student for student in self.students}
        conditions = {
            image_set.name: ScoringConditions(
                images=images_digest(file for pair in image_set.pairs for file in (pair.hr, pair.lr)),
                scale=self.scale,
                protocol=str(self.protocol),
                self_ensemble=options.self_ensemble,
                tile=options.tile,
                device=options.device,
                teacher=self.against,
                software=software(),
            )
            for image_set in self.sets
        }
        kept = {folder: read_evaluations(folder, self.context.note) for folder in folders}
        known = {entry.key: entry for entries in kept.values() for entry in entries}
        new: dict[tuple[str, ScoringConditions], KeptScores] = {}

        def keep(evaluation: Evaluation, models: Sequence[str]) -> None:
            for model, sets in zip(models, evaluation.models.values(), strict=True):
                for name, score in sets.items():
                    figures = dict(score.figures)
                    entry = KeptScores(
                        model=model,
                        conditions=conditions[name],
                        lr="stored" if score.lr == "stored" else "made",
                        figures=figures,
                    )
                    new[entry.key] = entry

        try:
            for models, sets in self._missing(conditions, known).items():
                self._evaluate(models, sets, keep)
        finally:
            known |= new
            obstacles = []
            for folder, student in folders.items() if new else ():
                own = {student.sha256, BICUBIC, *([] if student.teacher is None else [student.teacher.sha256])}
                entries = {entry.key: entry for entry in (*kept[folder], *new.values()) if entry.model in own}
                if entries.keys() & new.keys():
                    obstacles.append(write_evaluations(folder, tuple(entries.values())))
            reasons = [str(obstacle) for obstacle in obstacles if obstacle is not None]
            if reasons:
                more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
                self.context.note(f"evaluations are not kept for the next time: {reasons[0]}{more}")
        return SetScores(conditions, known)

    def _missing(
        self, conditions: Mapping[str, ScoringConditions], known: Mapping[tuple[str, ScoringConditions], KeptScores]
    ) -> dict[tuple[str, ...], list[ImageSet]]:
        """The sets by the models that lack scores on them."""
        models = dict.fromkeys([BICUBIC, *self.teachers, *(student.sha256 for student in self.students)])
        missing: dict[tuple[str, ...], list[ImageSet]] = {}
        for image_set in self.sets:
            lacking = tuple(model for model in models if (model, conditions[image_set.name]) not in known)
            missing.setdefault(lacking, []).append(image_set)
        missing.pop((), None)
        return missing

    def _evaluate(
        self, models: Sequence[str], sets: Sequence[ImageSet], keep: Callable[[Evaluation, Sequence[str]], None]
    ) -> None:
        """Score models on sets; of an interrupted evaluation the finished sets are kept."""
        from compressor.inference.evaluate import EvaluationInterrupted, EvaluationSettings, evaluate

        options = self.options
        # The teacher is run for its images, also if its own scores are known.
        wanted = dict.fromkeys(model for model in (self.against, *models) if model is not None)
        runtimes = {model: runtime for model in wanted if (runtime := self._open(model)) is not None}
        if self.against is not None and self.against not in runtimes:
            path = self.teachers[self.against].path
            raise SrkdError(f"the runs are judged by their teacher, and {path} is missing or has changed: put it back")
        if not runtimes and BICUBIC not in models:
            return
        names = ", ".join(image_set.name for image_set in sets)
        self.context.note(f"scoring {len(runtimes)} models on {names}; {EVALUATIONS} of each run keeps the scores")
        settings = EvaluationSettings(
            self.scale, self.protocol, options.self_ensemble, options.tile, metrics=DEFAULT_METRICS
        )
        teacher = None if self.against is None else runtimes[self.against]
        rows = (BICUBIC, *runtimes)
        try:
            keep(evaluate(tuple(runtimes.values()), sets, settings, self.context, teacher=teacher), rows)
        except EvaluationInterrupted as interrupted:
            keep(interrupted.evaluations[0], rows)
            raise

    def _open(self, model: str) -> Runtime | None:
        """Open a student, or a teacher whose file is there."""
        from compressor.inference.open import open_model

        student = next((student for student in self.students if student.sha256 == model), None)
        if student is not None:
            return open_model(student.run.folder, OpenOptions(device=self.options.device), self.context)
        teacher = self.teachers.get(model)
        path = None if teacher is None else find_teacher_file(teacher)
        if teacher is None or path is None:
            return None
        options = OpenOptions(scale=self.scale, arch_options=teacher.options or None, device=self.options.device)
        return open_model(path, options, self.context)
