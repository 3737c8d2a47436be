"""The progress of a fit, with an estimate of the remaining time."""

from __future__ import annotations

import time

from compressor.base.context import Context

EARLY = 0.03
"""Share of the work before which no estimate is given."""


class FitProgress:
    """Reports the progress to a context; `total` is the amount of all work, in any unit."""

    def __init__(self, context: Context, total: float) -> None:
        self.context, self.total, self.done, self.start = context, max(total, 1.0), 0.0, time.monotonic()
        self.context.progress("fit, percent", 0, 100)

    def add(self, work: float, what: str) -> None:
        """Add finished work and report the progress; `what` names that work."""
        self.done += work
        share = min(1.0, self.done / self.total)
        self.context.progress("fit, percent", round(100 * share), 100)
        if self.context.status is not None and EARLY < share < 1:
            self.context.status(what, (time.monotonic() - self.start) * (1 - share) / share)
