"""The scores of students on benchmark sets, beside bicubic and their teachers, by the path of `srkd evaluate`.

What a run folder keeps is not computed again. Importing this module does not import torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from compressor.base.choices import Goal
from compressor.base.context import Context
from compressor.base.errors import SrkdError, UsageError
from compressor.base.files import file_sha256
from compressor.images.protocol import Protocol
from compressor.images.scores import both_goals
from compressor.images.sets import ImageSet
from compressor.inference.metric_table import DEFAULT_METRICS, METRICS
from compressor.models.checkpoints.header import RUN_FOLDER_WEIGHTS
from compressor.runtimes.table import OpenOptions
from srkd.options.degradation import degradation_of, protocol_of
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
from srkd.record.run_spec import TeacherFile
from srkd.record.run_teacher import find_teacher_file
from srkd.reports.methods import Trained

if TYPE_CHECKING:
    from compressor.degradation.chain import Degradation
    from compressor.runtimes.base import Runtime

Key: TypeAlias = tuple[str, ScoringConditions]
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
    entries: Mapping[Key, KeptScores]

    def of(self, model: str) -> SetFigures:
        """The figures of a model; none if its file is gone and not all of them are kept."""
        rows = {name: self.entries.get((model, each)) for name, each in self.conditions.items()}
        figures = {name: row.figures for name, row in rows.items() if row is not None}
        return figures if len(figures) == len(rows) else {}

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
        return protocol_of(self.options, self.degradation, self.sets).at(self.scale)

    @cached_property
    def degradation(self) -> Degradation | None:
        """What the LR images suffer."""
        return degradation_of(self.options.degrade, self.context.note)

    @property
    def references(self) -> tuple[Goal, ...]:
        """What images are compared with, the goal first."""
        return ("original",) if self.goal == "original" else both_goals(self.goal)

    @property
    def _keys(self) -> set[str]:
        """The keys of the figures on each set."""
        return {METRICS[name].key_to(reference) for name in DEFAULT_METRICS for reference in self.references}

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

    @cached_property
    def conditions(self) -> Mapping[str, ScoringConditions]:
        """What decides the scores on each set."""
        options = self.options
        return {
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

    def scores(self) -> SetScores:
        """The scores of all models that are there; new ones are kept in the run folders."""
        folders = {student.run.folder: student for student in self.students}
        kept = {folder: read_evaluations(folder, self.context.note) for folder in folders}
        known = {
            entry.key: entry for entries in kept.values() for entry in entries if self._keys <= entry.figures.keys()
        }
        new: dict[Key, KeptScores] = {}
        try:
            for models, sets in self._missing(known).items():
                for entry in self._evaluate(models, sets):
                    new[entry.key] = entry
        finally:
            self._keep(kept, new)
        return SetScores(self.conditions, known | new)

    def _keep(self, kept: Mapping[Path, Sequence[KeptScores]], new: Mapping[Key, KeptScores]) -> None:
        """Add new scores to the folders of their runs."""
        obstacles = []
        for student in self.students:
            folder, own = student.run.folder, {student.sha256, BICUBIC}
            own |= set() if student.teacher is None else {student.teacher.sha256}
            entries = {entry.key: entry for entry in (*kept[folder], *new.values()) if entry.model in own}
            if entries.keys() & new.keys():
                obstacles.append(write_evaluations(folder, tuple(entries.values())))
        reasons = [str(obstacle) for obstacle in obstacles if obstacle is not None]
        if reasons:
            more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
            self.context.note(f"scores are not kept for the next time: {reasons[0]}{more}")

    def _missing(self, known: Mapping[Key, KeptScores]) -> dict[tuple[str, ...], list[ImageSet]]:
        """The sets by the models that lack scores on them."""
        models = dict.fromkeys([BICUBIC, *self.teachers, *(student.sha256 for student in self.students)])
        missing: dict[tuple[str, ...], list[ImageSet]] = {}
        for image_set in self.sets:
            lacking = tuple(model for model in models if (model, self.conditions[image_set.name]) not in known)
            missing.setdefault(lacking, []).append(image_set)
        missing.pop((), None)
        return missing

    def _evaluate(self, models: Sequence[str], sets: Sequence[ImageSet]) -> Iterator[KeptScores]:
        """Score models on sets; of an interrupted evaluation, the finished sets."""
        from compressor.inference.evaluate import EvaluationSettings, evaluate
        from compressor.inference.evaluation import EvaluationInterrupted

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
            self.scale, self.protocol, options.self_ensemble, options.tile, DEFAULT_METRICS, self.degradation
        )
        teacher = None if self.against is None else runtimes[self.against]
        interrupted: EvaluationInterrupted | None = None
        try:
            evaluation = evaluate(tuple(runtimes.values()), sets, settings, self.context, teacher=teacher)
        except EvaluationInterrupted as error:
            interrupted, evaluation = error, error.evaluations[0]
        rows = (evaluation.without_network, *evaluation.networks.values())
        for model, scores in zip((BICUBIC, *runtimes), rows, strict=True):
            for name, score in scores.items():
                yield KeptScores(
                    model=model,
                    conditions=self.conditions[name],
                    lr="stored" if score.lr == "stored" else "made",
                    figures=dict(score.figures),
                )
        if interrupted is not None:
            raise interrupted

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
        options = OpenOptions(
            scale=self.scale,
            arch_options=teacher.options or None,
            device=self.options.device,
            trust_code=self.options.trust_code,
        )
        return open_model(path, options, self.context)
