"""Freed memory that is kept causes no further page faults."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

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


def faults(*arguments: str, **variables: str) -> tuple[str, int]:
    """Return the function's answer, and the page faults of a tensor of 32 MiB after one of 64."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")} | variables
    command = [sys.executable, "-c", PROGRAM, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    answer, count = done.stdout.split()
    return answer, int(count)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator than glibc's")
def test_a_second_tensor_takes_the_pages_of_the_first() -> None:
    answer, count = faults("keep")
    assert answer == "True" and count < 100
    assert faults()[1] > 1_000


def test_settings_of_the_user_stay() -> None:
    assert faults("keep", MALLOC_ARENA_MAX="2")[0] == "False"
