"""The runner that a plan's folder takes to another device: which files it times, in which turns, and what it writes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from export.plan import runner
from tests.support.clock import Clock
from tests.support.commands import python
from tests.support.onnx_files import enlarger


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two files that run, one that is damaged, and one that is not there."""
    enlarger(tmp_path / "small.onnx", scale=2)
    enlarger(tmp_path / "large.onnx", scale=4)
    (tmp_path / "damaged.onnx").write_bytes(b"no model")
    names = ("small", "damaged", "large", "missing")
    environment = {"threads": 1, "lr_size": [12, 8]}
    shapes = {name: {"file": f"{name}.onnx"} for name in names}
    plan = {"id": "p1", "channels": 3, "environment": environment, "shapes": shapes}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    (tmp_path / "run.py").write_bytes(Path(runner.__file__).read_bytes())
    return tmp_path


def test_it_runs_alone_beside_its_files(folder: Path) -> None:
    # -I: without the folder of srkd on the path of imports
    done = python("-I", folder / "run.py", "--seconds", "0.05", cwd=folder.parent)
    assert (done.code, done.err) == (0, "") and done.out.splitlines()[-1] == f"wrote {folder / 'measured.json'}"
    assert "damaged failed: " in done.out and " FPS\n" in done.out
    measured = json.loads((folder / "measured.json").read_text())
    assert measured["schema"] == "srkd.plan-measured/1" and measured["plan"] == "p1" and measured["threads"] == 1
    assert measured["provider"] == "CPUExecutionProvider" and "cores" in measured["machine"]
    rows = measured["rows"]
    assert set(rows) == {"small", "damaged", "large", "missing"}
    for name in ("small", "large"):
        assert 0 < rows[name]["low"] <= rows[name]["ms"] <= rows[name]["high"]
    for name in ("damaged", "missing"):
        assert list(rows[name]) == ["failed"] and f"{name}.onnx" in rows[name]["failed"]


def test_files_take_turns_in_alternating_order_for_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of a second a round: eleven runs of a, four of b and one of c count, after one that warms up."""
    clock = Clock()
    monkeypatch.setattr(runner, "time", clock)
    calls = {name: clock.work(name, ms / 1000) for name, ms in (("a", 9.5), ("b", 30), ("c", 500))}
    rounds = runner.take_turns(calls, seconds=1.0)
    forward = "a" * 12 + "b" * 5 + "c" * 2
    assert clock.calls == (forward + forward[::-1]) * 5
    assert {name: {len(times) for times in rounds[name]} for name in calls} == {"a": {11}, "b": {4}, "c": {1}}
    np.testing.assert_allclose(np.concatenate(rounds["b"]), 30)
