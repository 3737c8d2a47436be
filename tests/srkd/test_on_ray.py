"""`--on ray` on two nodes of Ray's own test cluster, one of which is killed in the middle."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

import srkd
from compressor.base.errors import SrkdError, UsageError
from srkd import compress, upscale
from tests.support.commands import ROOT
from tests.support.run_files import read_json
from tests.support.side_by_side import at_first_state, plan


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


@pytest.mark.extras
@pytest.mark.ci
def test_a_sweep_ends_with_all_runs_though_a_node_is_killed(ground, tmp_path) -> None:
    out = tmp_path / "run"
    first = out / "rate-1e-4-seed10"
    with two_nodes() as cluster, at_first_state(first, lambda pid: kill_node_of(cluster, pid)) as killed:
        report = plan(ground, out, sweep="rate=1e-4,2e-4,4e-4,8e-4", seeds=2, steps=200, on="ray")
    assert killed and len(cluster.worker_nodes) == 0
    assert report.trials is not None and report.trials.points == 4 and len(report.trials.runs) == 8
    assert all("result" in read_json(out / run.run) for run in report.trials.runs)
    assert "continuing at step" in (first / "log.txt").read_text()
    alone = plan(ground, tmp_path / "alone", rate=1e-4, steps=200)
    assert alone.student_path.read_bytes() == (first / "student.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ({"on": "slurm", "seeds": 2}, "--on: 'slurm'"),
        ({"on": "ray"}, "--on ray: there is one run"),
        ({"on": "ray", "jobs": 2, "seeds": 2}, "--jobs 2"),
    ],
)
def test_what_no_cluster_can_do_is_refused(ground, tmp_path, words, named) -> None:
    with pytest.raises(UsageError, match=named):
        compress(ground / "teacher.safetensors", data=ground / "photos", out=tmp_path / "run", **words)
    assert not (tmp_path / "run").exists()


@pytest.mark.extras
@pytest.mark.ci
def test_an_archive_is_enlarged_though_a_node_is_killed(ground, tmp_path) -> None:
    """The outputs equal those of one process, also where a node died; kept ones stay as they are."""
    archive, out = tmp_path / "archive", tmp_path / "out"
    (archive / "inner").mkdir(parents=True)
    photo = (ground / "photos" / "0.png").read_bytes()
    for number in range(24):
        (archive / ("inner" if number % 2 else "") / f"{number}.png").write_bytes(photo)
    (archive / "bad.png").write_bytes(photo[:100])
    out.mkdir()
    (out / "0_x2.png").write_bytes(b"kept")
    words = {"recursive": True, "skip_existing": True, "threads": 1}
    with two_nodes() as cluster:
        watch = threading.Thread(target=kill_a_node, args=(cluster, out), daemon=True)
        watch.start()
        report = upscale(ground / "teacher.safetensors", archive, out=out, on="ray", **words)
        watch.join(60)
        assert len(cluster.worker_nodes) == 1
    assert len(report.done) == 23 and [failed.source.name for failed in report.failed] == ["bad.png"]
    assert [skipped.source.name for skipped in report.skipped] == ["0.png"]
    assert (out / "0_x2.png").read_bytes() == b"kept"
    here = upscale(ground / "teacher.safetensors", archive / "2.png", out=tmp_path / "here", threads=1)
    # A node that is killed while it writes leaves its temporary file, whose name begins with a dot.
    written = [path.read_bytes() for path in out.rglob("[!.]*.png") if path.name != "0_x2.png"]
    assert len(written) == 23 and set(written) == {here.done[0].output.read_bytes()}


def kill_a_node(cluster, out: Path) -> None:
    """Kill one of the nodes as soon as a picture is written."""
    while len(list(out.rglob("[!.]*_x2.png"))) < 2:
        time.sleep(0.01)
    cluster.remove_node(cluster.worker_nodes.copy().pop(), allow_graceful=False)


@pytest.mark.extras
@pytest.mark.parametrize("address", ["ray", "ray://127.0.0.1:{port}"])
def test_an_address_without_a_cluster_is_one_line(ground, monkeypatch, address) -> None:
    pytest.importorskip("ray")
    with socket.socket() as bound:  # it does not listen
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
        with pytest.raises(SrkdError, match=f"no Ray cluster answers at .*:{port}"):
            upscale(ground / "teacher.safetensors", ground / "photos", on=address.format(port=port))


def test_a_cluster_takes_a_model_from_a_file(ground) -> None:
    with pytest.raises(UsageError, match="--on ray"):
        upscale(srkd.load(ground / "teacher.safetensors"), ground / "photos", on="ray")
