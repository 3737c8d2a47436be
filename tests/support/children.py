"""Quick ways to start srkd's children (`children_started_by`): a new interpreter takes seconds to import torch.

A child with limits, which tries an untrusted file, is a fork with the same limits. LiteRT's converter and quantiser run
in forks of a process that has imported them. A profiled model and a program that was tried stay in this process, but
arguments and results still pass as JSON. All other children are processes as for a user.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partial
from typing import Any

from compressor.base.child import Child, StartChild, Worker
from compressor.base.context import Progress, no_progress
from compressor.base.errors import SrkdError
from compressor.base.isolation import ResourceLimits
from tests.support.forks import OF_UNTRUSTED_FILES, WarmProcess

KEPT_HERE = ("export.profile.measured:MeasuredModel", "compressor.teachers.program_in_child:ProgramInChild")
OF_LITERT = ("export.convert.to_litert:convert_checkpoint", "export.int8.litert_quantiser:quantise_file")


@contextmanager
def quick_start() -> Iterator[StartChild]:
    """Yield a way to start children quickly; the processes that it forks end with the context."""
    with closing(WarmProcess(*OF_UNTRUSTED_FILES)) as tries, closing(WarmProcess("litert_torch")) as litert:
        yield partial(_start, tries, litert)


def _start(
    tries: WarmProcess,
    litert: WarmProcess,
    function: str,
    job: Mapping[str, object],
    *,
    what: str,
    environment: Mapping[str, str] | None = None,
    progress: Progress = no_progress,
    limits: ResourceLimits | None = None,
    files: Sequence[int] = (),
) -> Worker:
    if function in KEPT_HERE:
        return ChildHere(function, job)
    if limits is not None or function in OF_LITERT:
        warm = litert if limits is None else tries
        return RunWhenAsked(
            lambda: warm.run(function, job, what=what, limits=limits, environment=environment, progress=progress)
        )
    return Child(function, job, what=what, environment=environment, progress=progress)


class RunWhenAsked:
    """A child with one result, which is computed when it is asked for."""

    def __init__(self, run: Callable[[], Any]) -> None:
        self._run = run

    def call(self, name: str, *, timeout_seconds: float | None = None, **arguments: object) -> Any:
        raise AssertionError(f"{name}: such a child keeps no object")

    def result(self, timeout_seconds: float | None = None) -> Any:
        return self._run()

    def close(self) -> None:
        """There is nothing to end."""


class ChildHere:
    """A child that keeps its object in this process."""

    def __init__(self, function: str, job: Mapping[str, object]) -> None:
        module, _, name = function.partition(":")
        self._error: SrkdError | None = None
        try:
            self._made: Any = getattr(importlib.import_module(module), name)(no_progress, **json.loads(json.dumps(job)))
        except SrkdError as error:
            self._error = error

    def call(self, name: str, *, timeout_seconds: float | None = None, **arguments: object) -> Any:
        self.result()
        return json.loads(json.dumps(getattr(self._made, name)(**json.loads(json.dumps(arguments)))))

    def result(self, timeout_seconds: float | None = None) -> None:
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        self._made = None
