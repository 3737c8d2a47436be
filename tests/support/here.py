"""`Child` without a process: the object is in this process, but arguments and results still pass as JSON.

It is for tests that use the models of a profile; tests of the processes themselves use `real_children`.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from typing import Any

from compressor.base.context import no_progress
from compressor.base.errors import SrkdError


class ChildHere:
    """A replacement of `compressor.base.child.Child` in this process."""

    def __init__(
        self, function: str, job: Mapping[str, object], *, what: str, environment: Mapping[str, str] | None = None
    ) -> None:
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
