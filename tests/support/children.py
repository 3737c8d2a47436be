"""A quick way to start srkd's children (`children_started_by`): a new interpreter takes seconds to import torch.

The trial of an ONNX file, a profiled model and the build of an engine stay in this process, but arguments and results
still pass as JSON. All jobs of LiteRT run in one child, which imports it once. All other children are processes as for
a user.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from compressor.base.child import Child, StartChild
from compressor.base.context import Progress, no_progress
from compressor.base.errors import SrkdError

KEPT_HERE = (
    "export.profile.measured:MeasuredModel",
    "compressor.runtimes.onnx_runtime:try_in_child",
    "compressor.runtimes.tensorrt.engines:build_in_child",
)
OF_LITERT = ("export.convert.to_litert:convert_checkpoint", "export.int8.litert_quantiser:quantise_file")


@contextmanager
def quick_start() -> Iterator[StartChild]:
    litert: list[Child] = []
    yield partial(_start, litert)
    for child in litert:
        child.close()


def _start(litert: list[Child], function: str, job: Mapping[str, object], *, what: str, **options: Any) -> Child:
    if function in KEPT_HERE:
        return ChildHere(function, job, options.get("progress", no_progress))
    if function in OF_LITERT:
        if not litert:
            litert.append(Child(f"{__name__}:Jobs", {}, what="LiteRT"))
            litert[0].result()
        return RunWhenAsked(lambda: litert[0].call("run", function=function, job=job))
    return Child(function, job, what=what, **options)


def find(function: str) -> Any:
    """Return the function that is named as in the jobs of children."""
    module, _, name = function.partition(":")
    return getattr(importlib.import_module(module), name)


class Jobs:
    """What runs jobs one after the other in a child."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def run(self, function: str, job: Mapping[str, Any]) -> Any:
        return find(function)(self._progress, **job)


class RunWhenAsked(Child):
    """A child with one result, which is computed when it is asked for."""

    def __init__(self, run: Callable[[], Any]) -> None:
        self._run = run

    def call(self, name: str, *, timeout_seconds: float | None = None, **arguments: object) -> Any:
        raise AssertionError(f"{name}: such a child keeps no object")

    def result(self, timeout_seconds: float | None = None) -> Any:
        return self._run()

    def close(self) -> None:
        """There is nothing to end."""


class ChildHere(Child):
    """A child that is this process."""

    def __init__(self, function: str, job: Mapping[str, object], progress: Progress) -> None:
        self._error: SrkdError | None = None
        found = find(function)
        try:
            self._made: Any = found(progress, **json.loads(json.dumps(job)))
        except SrkdError as error:
            self._error = error
        self._is_kept = isinstance(found, type)

    def call(self, name: str, *, timeout_seconds: float | None = None, **arguments: object) -> Any:
        self.result()
        return json.loads(json.dumps(getattr(self._made, name)(**json.loads(json.dumps(arguments)))))

    def result(self, timeout_seconds: float | None = None) -> Any:
        if self._error is not None:
            raise self._error
        return None if self._is_kept else json.loads(json.dumps(self._made))

    def close(self) -> None:
        self._made = None
