"""Processes that torchrun started anew meet each other, and not the addresses of those before them."""

from __future__ import annotations

import os
import subprocess
import sys

import torch.distributed as dist

from tests.support.commands import ROOT

MEMBER = """
import sys, time
from compressor.training.distributed import Group
from compressor.base.rank import Place

time.sleep(float(sys.argv[1]))
group = Group(Place.here(), print)
assert group.gathered(group.place.rank) == [0, 1]
group.close(well=True)
"""
LATE = 4.0
"""Seconds by which the first process is late: the other then looks for it in what is left of the attempt before."""


def attempt(number: int, port: int, late: float) -> list[tuple[int, str]]:
    """Both processes, as torchrun's agent starts them beside a store that outlives them; codes and errors."""
    shared = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": str(number),
        "WORLD_SIZE": "2",
    }
    members = [
        subprocess.Popen(
            [sys.executable, "-c", MEMBER, str(late if rank == 0 else 0.0)],
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
    for number, late in ((0, 0.0), (1, LATE)):
        for code, err in attempt(number, store.port, late):
            assert code == 0, err
