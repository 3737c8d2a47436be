"""The child process of a profiled model: started at once, called later, restarted after a crash."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from compressor.base.child import ChildFailed, Worker, start_child
from compressor.images.scores import Scores
from export.profile.layers import LayerTime
from export.profile.matrix_rate import MatrixRate
from export.profile.measured import FirstCall, MeasuredJob, ModelFacts, PhotoScores
from export.proof.integer_nodes import IntegerNodes
from export.timing.turns import TurnTimes

TIMEOUT_SECONDS = 900
"""Time limit of one call in seconds; a model that takes longer for a turn loses its row."""

Workload = tuple[int, int, int]
"""Width and height of the LR images, and images per batch."""


class ModelProcess:
    """A `MeasuredModel` in a child process. A call that crashes raises `ChildFailed`; the next call restarts the
    process, so that a crash at one size does not affect the others."""

    def __init__(self, job: MeasuredJob) -> None:
        self.job = job
        self._child: Worker | None = None
        self._is_open = False
        self.start()

    def start(self) -> None:
        """Start opening the model without waiting for it."""
        if self._child is None:
            self._child = start_child(
                "export.profile.measured:MeasuredModel",
                asdict(self.job),
                what=self.job.options.label or self.job.path,
                environment={"OMP_NUM_THREADS": str(self.job.options.threads or 1)},
            )

    def close(self) -> None:
        if self._child is not None:
            self._child.close()
        self._child, self._is_open = None, False

    def facts(self) -> ModelFacts:
        values = self._call("facts")
        nodes = values.pop("integer_nodes")
        return ModelFacts(**values, integer_nodes=None if nodes is None else IntegerNodes(**nodes))

    def prepare(self, workload: Workload, *, memory: bool) -> FirstCall:
        return FirstCall(**self._call("prepare", workload=workload, memory=memory))

    def keep_memory(self) -> None:
        self._call("keep_memory")

    def turn(self, workload: Workload, calls: int) -> TurnTimes:
        values = self._call("turn", workload=workload, calls=calls)
        return TurnTimes(tuple(values["ms"]), values["cpu_ms"])

    def layers(self, workload: Workload) -> tuple[LayerTime, ...] | None:
        rows = self._call("layers", workload=workload)
        return None if rows is None else tuple(LayerTime(**row) for row in rows)

    def matrix_rate(self, precision: str) -> MatrixRate | None:
        values = self._call("matrix_rate", precision=precision)
        return None if values is None else MatrixRate(**values)

    def quality(self, folder: str, *, is_teacher: bool) -> PhotoScores:
        scores = self._call("quality", folder=folder, is_teacher=is_teacher)
        return PhotoScores(**{name: Scores(**values) for name, values in scores.items()})

    def _call(self, name: str, **arguments: object) -> Any:
        self.start()
        assert self._child is not None
        try:
            if not self._is_open:
                self._child.result(TIMEOUT_SECONDS)
                self._is_open = True
            return self._child.call(name, timeout_seconds=TIMEOUT_SECONDS, **arguments)
        except ChildFailed:
            self.close()
            raise
