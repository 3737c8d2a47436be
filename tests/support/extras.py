"""Modules of optional packages in tests: imported when they are first used, so that collecting tests is quick."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

import pytest


class _Later:
    """A module that is imported at the first look at one of its names, but not at those that pytest looks for."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(import_module(self._name), name)


def extra(name: str) -> Any:
    """The module `name` of an optional package; where that is not installed, the tests of the calling file skip.

    To replace a name in it, take the module itself: `monkeypatch.setattr(import_module(...), ...)`.
    """
    package = name.partition(".")[0]
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed", allow_module_level=True)
    return _Later(name)
