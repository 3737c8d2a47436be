"""The runner that a plan's folder takes to another device: which files it times, in which turns, and what it writes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from export.plan import runner
from tests.support.onnx_files import enlarger


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two files that run, one that is damaged, and one that is not there."""
    enlarger(tmp_path / "small.onnx", scale=2)
    enlarger(tmp_path / "large.onnx", scale=4)
    (tmp_path / "damaged.onnx").write_bytes(b"no model")
    np.save(tmp_path / "photo.npy", np.random.default_rng(0).integers(0, 256, (1, 3, 8, 12), dtype=np.uint8))
    names = ("small", "damaged", "large", "missing")
    plan = {"id": "p1", "threads": 1, "candidates": [{"name": name, "file": f"{name}.onnx"} for name in names]}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    (tmp_path / "run.py").write_bytes(Path(runner.__file__).read_bytes())
    return tmp_path


def check_timings(folder: Path, threads: int) -> None:
    measured = json.loads((folder / "measured.json").read_text())
    assert measured["schema"] == "srkd.plan-measured/1" and measured["plan"] == "p1" and measured["threads"] == threads
    assert measured["provider"] == "CPUExecutionProvider" and "cores" in measured["machine"]
    rows = measured["rows"]
    assert set(rows) == {"small", "damaged", "large", "missing"}
    for name in ("small", "large"):
        assert 0 < rows[name]["low"] <= rows[name]["ms"] <= rows[name]["high"]
    for name in ("damaged", "missing"):
        assert list(rows[name]) == ["failed"] and f"{name}.onnx" in rows[name]["failed"]


def test_it_runs_alone_beside_its_files(folder: Path) -> None:
    command = [sys.executable, "-I", str(folder / "run.py"), "--seconds", "0.05"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder.parent)
    check_timings(folder, threads=1)
    assert done.stderr == "" and done.stdout.splitlines()[-1] == f"wrote {folder / 'measured.json'}"
    assert "damaged failed: " in done.stdout and " FPS\n" in done.stdout


def test_options_change_what_the_plan_says(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "__file__", str(folder / "run.py"))
    monkeypatch.setattr(sys, "argv", ["run.py", "--threads", "2", "--seconds", "0.02"])
    runner.main()
    check_timings(folder, threads=2)


class Clock:
    """A clock that only calls move forward."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.calls: list[str] = []

    def perf_counter(self) -> float:
        return self.seconds

    def call(self, name: str, milliseconds: float) -> Callable[[], None]:
        def run() -> None:
            self.calls.append(name)
            self.seconds += milliseconds / 1000

        return run


def test_files_take_turns_in_alternating_order_until_their_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(runner, "time", clock)
    rounds = runner.take_turns({"a": clock.call("a", 10), "b": clock.call("b", 25)}, seconds=1.0)
    # In each round 5 calls of a and 2 of b count, after one that warms up: 0.135 s a round, 2 s for both.
    assert "".join(clock.calls[2:]).startswith("a" * 6 + "b" * 3 + "b" * 3 + "a" * 6)
    assert {name: (len(times), {len(turn) for turn in times}) for name, times in rounds.items()} == {
        "a": (15, {5}),
        "b": (15, {2}),
    }
    np.testing.assert_allclose(rounds["a"], 10)
    np.testing.assert_allclose(rounds["b"], 25)


@pytest.mark.parametrize(("milliseconds", "rounds", "repeats"), [(500, 8, 1), (0.01, 20, 100)], ids=["slow", "fast"])
def test_a_slow_file_has_eight_rounds_and_a_fast_one_twenty(
    milliseconds: float, rounds: int, repeats: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(runner, "time", clock)
    times = runner.take_turns({"one": clock.call("one", milliseconds)}, seconds=1.0)
    assert [len(turn) for turn in times["one"]] == [repeats] * rounds
    assert len(clock.calls) == 1 + rounds * (repeats + (repeats > 1))
