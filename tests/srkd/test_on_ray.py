"""`--on ray` on two nodes of Ray's own test cluster, one of which is killed in the middle."""

from __future__ import annotations

import pytest

from compressor.base.errors import UsageError
from srkd import compress
from tests.support.ray_cluster import kill_node_of, two_nodes
from tests.support.run_files import read_json
from tests.support.side_by_side import at_first_state, plan


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
