"""Processes restarted by torchrun find each other, and not the addresses of earlier ones."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch.distributed as dist

from tests.support.commands import ROOT

pytestmark = pytest.mark.ci

MEMBER = """
import sys, time
from compressor.training.distributed import open_processes
from compressor.base.processes import Rank

rank = Rank.from_environment()
if sys.argv[1] == "late":
    time.sleep(3)  # the other one looks for this one already
with open_processes(rank) as group:
    assert group.gather_objects(group.rank.index) == [0, 1]
"""


def attempt(number: int, port: int, *, late: bool) -> list[tuple[int, str]]:
    """Start both processes like torchrun's agent, with a store that outlives them; return exit codes and errors.

    The first is `late`: the other then looks for it among the entries of the previous attempt.
    """
    shared = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2"}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    shared |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": str(number)}
    members = [
        subprocess.Popen(
            [sys.executable, "-c", MEMBER, "late" if late and rank == 0 else ""],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        return [(member.wait(90), member.communicate()[1]) for member in members]
    finally:
        for member in members:
            member.kill()


def test_a_second_attempt_meets_though_the_first_one_is_late() -> None:
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    for number, late in ((0, False), (1, True)):
        for code, err in attempt(number, store.port, late=late):
            assert code == 0, err
