"""`srkd plan`: the largest student that meets a target."""

from __future__ import annotations

from pathlib import Path

from compressor.base.context import Context
from compressor.models.networks.base import ImageModel
from srkd.options.compress import PlanKeywords, PlanOptions
from srkd.options.function import public
from srkd.options.models import refuse_file_options
from srkd.runs.planning import PlanReport, run_plan
from srkd.runs.planning_elsewhere import PlanFiles, plan_from, write_shapes
from srkd.runs.teacher import open_teacher


def plan_here_or_elsewhere(options: PlanOptions, context: Context) -> PlanReport | PlanFiles:
    """Find the largest student that meets all targets in a runtime on this machine; everything is measured.

    `emit` writes shapes and a runner for another device instead, and `measured` plans from the timings of that runner.

        >>> srkd.plan("edsr.pt", target_fps=5, lr_size="64x48", seconds=0.1).chosen.student
    """
    measured, emit, given = options.measurement.measured, options.measurement.emit, options.teacher
    if isinstance(given.teacher, ImageModel):
        refuse_file_options(given.scale, given.arch_options)
    teacher = given.teacher if isinstance(given.teacher, ImageModel) else open_teacher(given, context)
    if measured is not None:
        return plan_from(Path(measured), options, teacher, context)
    if emit is not None:
        return write_shapes(options, teacher, Path(emit), context)
    return run_plan(options, teacher, context)


plan = public(PlanKeywords, PlanOptions, plan_here_or_elsewhere, "plan")
