"""A process that trains runs of plans: it reads teacher and images once for all of its runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from compressor.base.context import Context, Progress, no_progress
from compressor.base.interrupts import StopRequest
from compressor.base.processes import Processes
from srkd.runs.compression import continue_planned


class RunWorker:
    """Trains one run after another, each from the run folder that its plan has begun."""

    def __init__(self, progress: Progress = no_progress) -> None:
        self.context = Context()

    def train(self, run: str, plan: str, accept_changed_code: bool, wait_seconds: float = 0.0) -> None:
        """Continue a run; before its first step and after its last one, SIGTERM ends the process at once."""
        processes = Processes()
        # Ctrl-C in a terminal reaches this process, and its parent sends SIGTERM: the second one must do nothing.
        processes.stop_request = StopRequest(launched=True)
        continue_planned(
            Path(run),
            Path(plan),
            replace(self.context, processes=processes),
            accept_changed_code=accept_changed_code,
            wait_seconds=wait_seconds,
        )
