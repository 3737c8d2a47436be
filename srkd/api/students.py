"""`srkd students`: the students that come with srkd, with their facts, timed here in the fastest runtime."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from compressor.assets.shipped import ShippedStudent, shipped_names, shipped_student
from compressor.base.context import Context
from compressor.inference.open import open_model
from compressor.models.checkpoints.load import load_checkpoint
from compressor.models.students.shipped import unpack_student
from compressor.runtimes.table import RUNTIMES
from export.plan.measure import Environment, write_for
from export.timing.turns import take_turns
from srkd.options.function import public
from srkd.options.values import read_size
from srkd.options.verbs import StudentsOptions


@dataclass(frozen=True)
class StudentHere:
    """A student with the median time of an image in its fastest runtime here; None if it was not timed."""

    facts: ShippedStudent
    ms: float | None = None
    runtime: str | None = None


@dataclass(frozen=True)
class StudentList:
    """The students; `lr_size` is (width, height) of the image that was timed."""

    lr_size: tuple[int, int]
    students: tuple[StudentHere, ...]


def run_students(options: StudentsOptions, context: Context) -> StudentList:
    """List the students that come with srkd; each name is a model wherever one is taken.

    >>> srkd.students(seconds=0.1).students[0].ms
    """
    here, lr_size = [StudentHere(shipped_student(name)) for name in shipped_names()], read_size(options.lr_size)
    if options.seconds:
        timed = partial(_timed, options=options, lr_size=lr_size, context=context)
        here = list(map(timed, context.each("time students", here)))
    return StudentList(lr_size, tuple(here))


def _timed(student: StudentHere, options: StudentsOptions, lr_size: tuple[int, int], context: Context) -> StudentHere:
    with tempfile.TemporaryDirectory(prefix="srkd-students-") as folder:
        rows = (
            row for row in RUNTIMES.values() if row.name == "torch" or "onnxruntime" in (row.name, row.alternative_to)
        )
        names = [row.name for row in rows if row.missing_requirement() is None]
        available = [Environment(name, lr_size=lr_size, threads=options.threads) for name in names]
        network = load_checkpoint(unpack_student(student.facts.name)).network.deployed()
        calls = []
        for environment in available:
            file = write_for(network, student.facts.name, environment, Path(folder), context=context)
            calls.append(environment.call(open_model(file, environment.open_options())))
        times = [times.percentile(50) for times in take_turns(calls, seconds_each=options.seconds)]
    ms, runtime = min(zip(times, (each.runtime for each in available), strict=True))
    return StudentHere(student.facts, ms, runtime)


students = public(StudentsOptions, StudentsOptions, run_students, "students")
