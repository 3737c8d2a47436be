"""The place of a student in its teacher: which network it must be, and where each of its parameters lies."""

from __future__ import annotations

import torch

from compressor.base.errors import UsageError
from compressor.models.networks.axes import AxisPlan, Cut, Segments, cuts
from compressor.models.networks.base import Spec
from compressor.models.networks.registry import architecture, build


def axis_plans(teacher: Spec, student: Spec) -> tuple[AxisPlan, AxisPlan]:
    """Return the axis plans of both specs, which must be of one network and one scale."""
    if teacher.arch != student.arch:
        raise UsageError(
            f"a student of {student.arch} cannot inherit from a teacher of {teacher.arch}: give it random weights"
        )
    if teacher.scale != student.scale:
        raise UsageError(
            f"a student of scale {student.scale} cannot inherit from a teacher of scale {teacher.scale}: solve for it "
            "(--init fit) or take random weights"
        )
    axes = architecture(student.arch).axes
    return axes(teacher), axes(student)


def student_cuts(teacher: Spec, student: Spec, segments: Segments = "each") -> dict[str, Cut]:
    long, short = axis_plans(teacher, student)
    with torch.device("meta"):
        names = [name for name, _ in build(student).named_parameters()]
    return cuts(long, short, names, segments=segments)
