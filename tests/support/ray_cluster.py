"""Ray's own test cluster on this machine: two nodes, each with one processor."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import pytest

from tests.support.commands import ROOT


@contextmanager
def two_nodes() -> Iterator[Any]:
    """Yield a cluster that `--on ray` finds by RAY_ADDRESS, with two nodes besides its head."""
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("OMP_NUM_THREADS", "1")
        cluster = cluster_utils.Cluster(
            initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
        )
        try:
            for _ in range(2):
                cluster.add_node(num_cpus=1)
            patch.setenv("RAY_ADDRESS", cluster.address)
            yield cluster
        finally:
            cluster.shutdown()


def kill_node_of(cluster: Any, pid: int) -> None:
    """Kill a node at once, as a machine that loses its power, with the worker `pid`."""
    parents = {parent.pid for parent in psutil.Process(pid).parents()}
    nodes = (node for node in cluster.worker_nodes if node.all_processes["raylet"][0].process.pid in parents)
    cluster.remove_node(next(nodes), allow_graceful=False)
    if psutil.pid_exists(pid):
        os.kill(pid, 9)
