"""Which share of a fit is done, and at this pace how long the rest takes."""

from __future__ import annotations

import time

from compressor.base.context import Context

EARLY = 0.03
"""Before this share is done the pace says nothing about the rest."""


class Pace:
    """Reports as the work goes on; `total` is all of it, in whatever unit."""

    def __init__(self, context: Context, total: float) -> None:
        self.context, self.total, self.done, self.start = context, max(total, 1.0), 0.0, time.monotonic()
        self.context.progress("fit, percent", 0, 100)

    def add(self, work: float, what: str) -> None:
        """Add what was done, and report it: `what` was in the works."""
        self.done += work
        share = min(1.0, self.done / self.total)
        self.context.progress("fit, percent", round(100 * share), 100)
        if self.context.status is not None and EARLY < share < 1:
            self.context.status(what, (time.monotonic() - self.start) * (1 - share) / share)
