"""`--jobs`: runs of a plan side by side, whose workers may die, fail or be stopped."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from compressor.base.child import ChildFailed
from compressor.base.context import Context
from compressor.base.errors import SrkdError
from compressor.base.interrupts import Interrupted, StopRequest
from compressor.training.run_files import newest_step
from srkd import resume
from srkd.runs.workers import BegunRun, SideBySide, Slot, local_slots
from tests.support.run_files import read_json
from tests.support.side_by_side import at_first_state, plan


class FakeSlot(Slot):
    """Calls a function for each run; `stop` and `kill` are counted."""

    def __init__(self, train: Callable[[BegunRun], None]) -> None:
        self.train, self.stops = train, 0  # type: ignore[method-assign]

    def train(self, run: BegunRun) -> None:
        raise NotImplementedError

    def stop(self) -> None:
        self.stops += 1

    def kill(self) -> None:
        pass


def begun(folder: Path, count: int) -> list[BegunRun]:
    return [BegunRun(f"run {number}", folder / str(number), 10, {}) for number in range(count)]


def test_a_plan_for_gpus_begins_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its workers say then that the device cannot be used."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert len(local_slots(3, None, "cuda")) == 3


def test_a_run_whose_worker_died_is_trained_again_twice_and_a_failure_stops_no_other(tmp_path) -> None:
    trained: list[str] = []

    def train(run: BegunRun) -> None:
        trained.append(run.title)
        if run.title == "run 0" or (run.title == "run 1" and trained.count("run 1") < 3):
            raise ChildFailed("its worker", "it was killed", crashed=True)
        if run.title == "run 2":
            raise SrkdError("too high a rate")
        if run.title == "run 3":
            raise ChildFailed("its worker", "a fault", crashed=False)

    notes: list[str] = []
    training = SideBySide(begun(tmp_path, 5), [FakeSlot(train)] * 2, Context(note=notes.append), StopRequest())
    training.train()
    assert [trained.count(f"run {number}") for number in range(5)] == [3, 3, 1, 1, 1]
    assert set(training.failures) == {"run 0", "run 2", "run 3"} and "too high" in training.failures["run 2"]
    assert {"run 1: done", "run 4: done"} <= set(notes)


def test_a_stop_reaches_every_worker_and_starts_no_other_run(tmp_path) -> None:
    stop, both = StopRequest(), threading.Barrier(3, timeout=60)
    trained: list[str] = []

    def train(run: BegunRun) -> None:
        trained.append(run.title)
        both.wait()
        both.wait()
        raise Interrupted("saved")

    workers = [FakeSlot(train), FakeSlot(train)]
    training = SideBySide(begun(tmp_path, 4), workers, Context(), stop)

    def interrupt() -> None:
        both.wait()
        stop.received = True
        while not all(worker.stops for worker in workers):
            time.sleep(0.01)
        both.wait()

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(Interrupted):
        training.train()
    thread.join()
    assert sorted(trained) == ["run 0", "run 1"] and training.failures == {}


def test_the_newest_step_is_that_of_the_last_whole_row(tmp_path) -> None:
    assert newest_step(tmp_path) == 0
    (tmp_path / "metrics.jsonl").write_text('{"step": 3}\n{"step": 14}\n{"step": 1')
    assert newest_step(tmp_path) == 14


@pytest.mark.ci
def test_a_killed_worker_and_ctrl_c_change_no_byte(ground, tmp_path) -> None:
    words = {"sweep": ("rate=1e-4,1e-3",), "seeds": 2, "steps": 300}
    alone = plan(ground, tmp_path / "alone", **words)
    out, notes = tmp_path / "run", list[str]()
    first, second = (out / f"rate-1e-4-seed{seed}" for seed in (10, 11))
    with (
        at_first_state(first, lambda pid: os.kill(pid, signal.SIGKILL)) as killed,
        at_first_state(second, lambda pid: os.kill(os.getpid(), signal.SIGINT)) as stopped,
        pytest.raises(Interrupted, match="srkd compress --resume"),
    ):
        plan(ground, out, **words, jobs=2, announce=notes.append)
    assert killed and stopped and sum("SIGKILL" in line for line in notes) == 1
    report = resume(out, jobs=1)
    assert all("continuing at step" in (run / "log.txt").read_text() for run in (first, second))
    assert report.trials is not None and len(report.trials.runs) == 4
    for run in report.trials.runs:
        assert (out / run.run / "student.safetensors").read_bytes() == (
            alone.run / run.run / "student.safetensors"
        ).read_bytes(), run.run


@pytest.mark.ci
def test_a_run_that_fails_is_named_at_the_end(ground, tmp_path) -> None:
    out = tmp_path / "run"
    with pytest.raises(SrkdError, match=r"1 of 2 runs failed: .*rate=1e9.*log\.txt.*--resume"):
        plan(ground, out, sweep="rate=1e9,1e-3", steps=40, jobs=2)
    assert "result" in read_json(out / "rate-1e-3-seed10") and "result" not in read_json(out)
