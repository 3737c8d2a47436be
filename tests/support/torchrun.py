"""Processes under torchrun on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import psutil

from tests.support.commands import ROOT

TWO_PROCESSES = ("--standalone", "--nproc-per-node", "2")


@contextmanager
def torchrun(*arguments: str, machine: Sequence[str] = TWO_PROCESSES) -> Iterator[subprocess.Popen[str]]:
    """Start processes on this machine, and end them with the context."""
    command = [sys.executable, "-m", "torch.distributed.run", *machine]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*command, *arguments], env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        yield process
    finally:
        for child in [*workers(process), process]:
            child.kill()
        process.communicate()


def run_torchrun(*arguments: str, fails: bool = False) -> tuple[str, str]:
    """Run to the end, with an error only if `fails`; return both outputs."""
    with torchrun(*arguments) as process:
        out, err = process.communicate(timeout=240)
        assert (process.returncode != 0) == fails, err
        return out, err


def workers(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Return the processes that torchrun started, by rank."""
    try:
        children = psutil.Process(process.pid).children()
        return sorted(children, key=lambda child: int(child.environ()["RANK"]))
    except (psutil.NoSuchProcess, KeyError):
        return []
