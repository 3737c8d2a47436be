"""Freed memory that is kept causes no further page faults; cycles are looked for less often, and still freed."""

from __future__ import annotations

import gc
import os
import platform
import subprocess
import sys
import weakref
from collections.abc import Iterator

import pytest

from compressor.base.memory import NEW_OBJECTS, collect_less_often, keep_freed_memory

PROGRAM = """
import resource, sys
import torch
from compressor.base.memory import keep_freed_memory
print(keep_freed_memory() if "keep" in sys.argv else None)
torch.ones(2**24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
torch.ones(2**23)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(*arguments: str) -> tuple[str, int]:
    """Return the function's answer, and the page faults of a tensor of 32 MiB after one of 64."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    command = [sys.executable, "-c", PROGRAM, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    answer, count = done.stdout.split()
    return answer, int(count)


@pytest.mark.ci
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator than glibc's")
def test_a_second_tensor_takes_the_pages_of_the_first() -> None:
    answer, count = faults("keep")
    assert answer == "True" and count < 100
    assert faults()[1] > 1_000


def test_settings_of_the_user_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_ARENA_MAX", "2")
    assert not keep_freed_memory()


@pytest.fixture
def _default_threshold() -> Iterator[None]:
    before = gc.get_threshold()
    gc.set_threshold(700, *before[1:])
    yield
    gc.set_threshold(*before)


def collections_of(count: int) -> int:
    """Return how often Python looks for cycles while `count` objects are created and kept."""
    before = sum(generation["collections"] for generation in gc.get_stats())
    objects = [[index] for index in range(count)]
    assert len(objects) == count
    return sum(generation["collections"] for generation in gc.get_stats()) - before


class Cycle:
    def __init__(self) -> None:
        self.me = self


@pytest.mark.usefixtures("_default_threshold")
def test_cycles_are_looked_for_less_often_and_freed() -> None:
    usual = collections_of(2 * NEW_OBJECTS)
    collect_less_often()
    assert 1 <= collections_of(2 * NEW_OBJECTS) <= usual / 10
    cycle = weakref.ref(Cycle())
    collections_of(2 * NEW_OBJECTS)
    assert cycle() is None
