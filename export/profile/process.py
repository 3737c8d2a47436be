"""The child process of a profiled model: started at once, called later, restarted after a crash."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter

from compressor.base.child import Child, ChildFailed, start_child
from compressor.runtimes.table import OpenOptions
from export.profile.measured import FirstCall, ModelFacts, PhotoScores
from export.timing.turns import TurnTimes

TIMEOUT_SECONDS = 900
"""Time limit of one call in seconds; a model that takes longer for a turn loses its row."""

T = TypeVar("T")

Workload = tuple[int, int, int]
"""Width and height of the LR images, and images per batch."""


class ModelProcess:
    """A `MeasuredModel` in a child process. A call that crashes raises `ChildFailed`; the next call restarts the
    process, so that a crash at one size does not affect the others."""

    def __init__(self, file: Path, options: OpenOptions, libraries: Sequence[str] = ()) -> None:
        self._file, self._options, self._libraries = file, options, libraries
        self._child: Child | None = None
        self._is_open = False
        self._start()

    def close(self) -> None:
        if self._child is not None:
            self._child.close()
        self._child, self._is_open = None, False

    @cached_property
    def facts(self) -> ModelFacts:
        """The facts of the open model; the first call waits until it is open."""
        return self._call(ModelFacts, "facts")

    def prepare(self, workload: Workload, *, memory: bool) -> FirstCall:
        return self._call(FirstCall, "prepare", workload=workload, memory=memory)

    def keep_memory(self) -> None:
        self._call(type(None), "keep_memory")

    def turn(self, workload: Workload, calls: int) -> TurnTimes:
        return self._call(TurnTimes, "turn", workload=workload, calls=calls)

    def quality(self, folder: str, *, is_teacher: bool) -> PhotoScores:
        return self._call(PhotoScores, "quality", folder=folder, is_teacher=is_teacher)

    def _start(self) -> Child:
        """The child, which starts to open the model now if there is none."""
        if self._child is None:
            self._child = start_child(
                "export.profile.measured:MeasuredModel",
                {"path": str(self._file), "options": asdict(self._options), "libraries": self._libraries},
                what=self._options.label or str(self._file),
                environment={"OMP_NUM_THREADS": str(self._options.threads or 1)},
            )
        return self._child

    def _call(self, kind: type[T], name: str, **arguments: object) -> T:
        """What a method of the child's model returns, as a value of this type."""
        child = self._start()
        try:
            if not self._is_open:
                child.result(TIMEOUT_SECONDS)
                self._is_open = True
            result = child.call(name, timeout_seconds=TIMEOUT_SECONDS, **arguments)
        except ChildFailed:
            self.close()
            raise
        return TypeAdapter(kind).validate_python(result)
