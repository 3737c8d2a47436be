"""Entries of a `RunSpec` for what was read: a teacher, images, a cache. A continued run compares them."""

from __future__ import annotations

import json

from compressor.base.choices import Goal
from compressor.data.prepare import Data
from compressor.data.teacher_cache import TeacherCache
from compressor.teachers.licence import licence_of
from compressor.teachers.teacher import Teacher
from srkd.record.run_spec import DegradationSteps, TeacherFile, TeacherOutputs, TrainingImages


def teacher_entry(teacher: Teacher) -> TeacherFile | None:
    origin = teacher.origin
    if origin is None:
        return None
    return TeacherFile(
        path=origin.path.resolve(),
        sha256=origin.sha256,
        kind=teacher.backend,
        options=dict(origin.options),
        licence=licence_of(origin.path),
    )


def cache_entry(cache: TeacherCache | None) -> TeacherOutputs | None:
    return None if cache is None else TeacherOutputs.model_validate(cache.facts())


def images_entry(data: Data, labels: Goal) -> TrainingImages:
    return TrainingImages(
        origin=data.origin,
        labels="teacher" if labels == "teacher" else "HR",
        used=len(data.train),
        digest=data.train.digest(),
        skipped={str(image.path): image.reason for image in data.train.skipped},
        validation=data.validation_names,
    )


def degradation_entry(data: Data) -> DegradationSteps | None:
    degraded = data.train.degraded
    if degraded is None:
        return None
    return DegradationSteps.model_validate_json(json.dumps(degraded.degradation.to_json()))
