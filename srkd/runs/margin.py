"""The margin that the teacher sees around the patches of a run."""

from __future__ import annotations

from contextlib import suppress

import torch

from compressor.base.context import Context
from compressor.base.decided import LabelMargin
from compressor.base.errors import UsageError
from compressor.data.label_margin import given_margin, measure_margin
from compressor.data.prepare import Data
from srkd.options.compress import CompressOptions
from srkd.runs.recipe import repeats_published
from srkd.runs.teacher_use import TeacherUse


def choose_margin(
    options: CompressOptions, use: TeacherUse, data: Data, lr_patch: int, device: torch.device, context: Context
) -> LabelMargin | None:
    """The margin, given or measured, and announce it; None if no teacher runs on patches."""
    given, teacher = options.training.label_margin, use.teacher
    if teacher is None or not use.sees_windows:
        return None
    if given is not None:
        margin = given_margin(given, teacher, data.train, lr_patch)
    elif repeats_published(options.training.recipe):
        return None
    else:
        margin = context.once(
            "margin",
            *(id(teacher), id(data), lr_patch, str(device)),
            read=lambda: measure_margin(teacher.move_to(device), data.train, lr_patch, context),
        )
    if given != 0:
        advice = ""
        if given is None and margin.pixels:
            advice = " (--label-margin 0: no margin)"
            with suppress(UsageError):
                use.require_cacheable()
                advice = " (--teacher-cache: it runs once over the whole images; --label-margin 0: no margin)"
        context.note(margin.line(lr_patch) + advice)
    return margin
