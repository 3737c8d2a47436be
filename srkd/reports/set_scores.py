"""The scores of students on benchmark sets, beside bicubic and their teachers, by the path of `srkd evaluate`.

What a run folder keeps is not computed again. Importing this module does not import torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from compressor.base.choices import Goal
from compressor.base.context import Context
from compressor.base.errors import SrkdError, UsageError
from compressor.images.protocol import Protocol
from compressor.images.sets import ImageSet
from compressor.inference.metric_table import DEFAULT_METRICS
from compressor.runtimes.table import OpenOptions
from srkd.options.degradation import degradation_of, protocol_of
from srkd.options.verbs import CompareOptions
from srkd.record.code import short
from srkd.record.evaluations import (
    BICUBIC,
    EVALUATIONS,
    KeptScores,
    images_digest,
    read_evaluations,
    scores_key,
    write_evaluations,
)
from srkd.record.run_spec import TeacherFile
from srkd.record.run_teacher import find_teacher_file
from srkd.reports.comparison import SetFigures, SetScores
from srkd.reports.methods import Trained

if TYPE_CHECKING:
    from compressor.degradation.chain import Degradation
    from compressor.runtimes.base import Runtime


@dataclass(frozen=True)
class Scoring:
    """Runs whose students are scored on sets at one scale, with bicubic and their teachers."""

    runs: Sequence[Trained]
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
        """The degradation of the LR images."""
        return degradation_of(self.options.degrade, self.context)

    @cached_property
    def teachers(self) -> Mapping[str, TeacherFile]:
        """The distinct teachers of the students, by the SHA-256 of their files."""
        return {run.file.teacher.sha256: run.file.teacher for run in self.runs if run.file.teacher is not None}

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
    def digests(self) -> Mapping[str, str]:
        return {
            each.name: images_digest(file for pair in each.pairs for file in (pair.hr, pair.lr)) for each in self.sets
        }

    def scores(self) -> SetScores:
        """The scores of all that is compared, without teachers whose file is gone; the run folders keep them."""
        kept = {run.folder: read_evaluations(run.folder, self.context.note) for run in self.runs}
        known = {key: entry for entries in kept.values() for key, entry in entries.items()}
        models = dict.fromkeys([BICUBIC, *self.teachers, *(run.student_sha256 for run in self.runs)])
        try:
            for image_set in self.sets:
                missing = [model for model in models if self._key(model, image_set.name) not in known]
                if missing:
                    known |= self._evaluate(missing, image_set)
        finally:
            self._keep(kept, known)
        kept_of = {model: [known.get(self._key(model, name)) for name in self.digests] for model in models}
        figures: dict[str, SetFigures] = {
            model: {name: entry.images for name, entry in zip(self.digests, entries, strict=True) if entry is not None}
            for model, entries in kept_of.items()
            if None not in entries
        }
        teachers = {sha256: file for sha256, file in self.teachers.items() if sha256 in figures}
        origins = [known[self._key(BICUBIC, name)].lr for name in self.digests]
        return SetScores(
            protocol=f"{self.protocol}{', self-ensemble' if self.options.self_ensemble else ''}",
            sets={
                each.name: f"{len(each.pairs)} images, LR {origin}, {short(self.digests[each.name])}"
                for each, origin in zip(self.sets, origins, strict=True)
            },
            bicubic=figures[BICUBIC],
            teachers={
                "teacher" if len(teachers) == 1 else f"teacher {file.path.stem}": figures[sha256]
                for sha256, file in teachers.items()
            },
            students={run.folder: figures[run.student_sha256] for run in self.runs},
            left_out=tuple(
                f"the teacher {file.path.name} is left out: its file is missing or has changed"
                for sha256, file in self.teachers.items()
                if sha256 not in figures
            ),
        )

    def _key(self, model: str, name: str) -> str:
        options = self.options
        conditions = {
            "scale": self.scale,
            "protocol": str(self.protocol),
            "self_ensemble": options.self_ensemble,
            "tile": options.tile,
            "device": options.device,
            "teacher": self.against,
        }
        return scores_key(model, self.digests[name], conditions)

    def _keep(self, kept: Mapping[Path, Mapping[str, KeptScores]], known: Mapping[str, KeptScores]) -> None:
        for run in self.runs:
            own = [BICUBIC, run.student_sha256, *([] if run.file.teacher is None else [run.file.teacher.sha256])]
            keys = [key for model in own for name in self.digests if (key := self._key(model, name)) in known]
            entries = {**kept[run.folder], **{key: known[key] for key in keys}}
            if entries.keys() != kept[run.folder].keys():
                write_evaluations(run.folder, entries, self.context.note)

    def _evaluate(self, models: Sequence[str], image_set: ImageSet) -> dict[str, KeptScores]:
        from compressor.inference.evaluate import EvaluationSettings, evaluate

        # The teacher is run for its images, also if its own scores are known.
        wanted = dict.fromkeys(model for model in (self.against, *models) if model is not None)
        runtimes = {model: runtime for model in wanted if (runtime := self._open(model)) is not None}
        if self.against is not None and self.against not in runtimes:
            path = self.teachers[self.against].path
            raise SrkdError(f"the runs are judged by their teacher, and {path} is missing or has changed: put it back")
        if not runtimes and BICUBIC not in models:
            return {}
        self.context.note(
            f"scoring {len(runtimes)} models on {image_set.name}; {EVALUATIONS} of each run keeps the scores"
        )
        ensemble, tile = self.options.self_ensemble, self.options.tile
        settings = EvaluationSettings(self.scale, self.protocol, ensemble, tile, DEFAULT_METRICS, self.degradation)
        teacher = None if self.against is None else runtimes[self.against]
        evaluation = evaluate(tuple(runtimes.values()), [image_set], settings, self.context, teacher=teacher)
        rows = (evaluation.without_network, *evaluation.networks.values())
        entries = {}
        for model, scores in zip((BICUBIC, *runtimes), rows, strict=True):
            score = scores[image_set.name]
            entries[self._key(model, image_set.name)] = KeptScores(
                lr="stored" if score.lr == "stored" else "made",
                images={key: [image[key] for image in score.images.values()] for key in score.figures},
            )
        return entries

    def _open(self, model: str) -> Runtime | None:
        """Open a student, or a teacher whose file is there."""
        from compressor.inference.open import open_model

        run = next((run for run in self.runs if run.student_sha256 == model), None)
        if run is not None:
            return open_model(run.folder, OpenOptions(device=self.options.device), self.context)
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
