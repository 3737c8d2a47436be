"""The progress of a fit."""

from __future__ import annotations

from compressor.base.context import Context


class FitProgress:
    """Reports the progress to a context; `total` is the amount of all work, in any unit."""

    def __init__(self, context: Context, total: float) -> None:
        self.context, self.total, self.done = context, max(total, 1.0), 0.0
        self.add(0.0)

    def add(self, work: float) -> None:
        self.done += work
        self.context.progress("fit, percent", round(100 * min(1.0, self.done / self.total)), 100)
