"""`srkd students`: the students that come with srkd, with their facts, timed here as `srkd upscale` runs them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from compressor.assets.shipped import ShippedStudent, shipped_names, shipped_student
from compressor.base.context import Context
from compressor.inference.open import open_model
from compressor.inference.runtime_choice import RuntimeChoice
from compressor.models.students.shipped import unpack_student
from compressor.runtimes.table import OpenOptions
from export.timing.stopwatch import image_for
from export.timing.turns import take_turns
from srkd.options.function import public
from srkd.options.values import read_size
from srkd.options.verbs import StudentsOptions

PICTURES = 1000
"""So many images share the choice of a runtime, as those of a film do."""


@dataclass(frozen=True)
class StudentHere:
    """A student with the median time of an image in the runtime and precision that the frames of a film have here."""

    facts: ShippedStudent
    ms: float | None = None
    """None if it was not timed."""
    runtime: str | None = None
    precision: str | None = None


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
        timed = partial(_timed, options=options, lr_size=lr_size)
        here = list(map(timed, context.each("time students", here)))
    return StudentList(lr_size, tuple(here))


def _timed(student: StudentHere, options: StudentsOptions, lr_size: tuple[int, int]) -> StudentHere:
    opened = open_model(unpack_student(student.facts.name), OpenOptions(threads=options.threads))
    lr = image_for(opened, *lr_size)
    runtime = RuntimeChoice(opened).select(lr, pictures=PICTURES).runtime
    (times,) = take_turns([partial(runtime.run, lr)], seconds_each=options.seconds)
    return StudentHere(student.facts, times.percentile(50), runtime.name, runtime.precision)


students = public(StudentsOptions, StudentsOptions, run_students, "students")
