"""The death of a process that trains, and a full disk, in a test that goes on."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from compressor.training.state import State


class Died(Exception):
    """Error in place of a killed process."""


@contextmanager
def death_after(saves: int) -> Iterator[None]:
    """Expect that the block dies right after this number of saved states, of all its runs together."""
    save, left = State.save, [saves]

    def mortal(self: State, path: Path) -> None:
        save(self, path)
        left[0] -= 1
        if left[0] == 0:
            raise Died

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Died):
        patch.setattr(State, "save", mortal)
        yield


@contextmanager
def file_size_limit(most_bytes: int) -> Iterator[None]:
    """Limit the files of this process, like a full disk; Python ignores the signal of the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
