"""The rows of a profile in separate processes: they take turns, and if one dies or runs out of memory, only its row is
lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.embedded_student import embedded_student
from compressor.base import machine
from compressor.base.child import ChildFailed
from compressor.base.errors import SrkdError, UsageError
from compressor.base.machine import usable_cores
from compressor.models.checkpoints.save import save_network
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import build, spec_from_dict
from compressor.runtimes.table import OpenOptions
from compressor.runtimes.torch_runtime import TorchRuntime
from export.profile.conditions import Conditions, observe
from export.profile.measured import MeasuredModel
from export.profile.process import ModelProcess
from export.profile.report import profile_models
from export.profile.settings import ProfileSettings
from export.timing.stopwatch import time_by_events
from tests.support.commands import is_gone

SMALL, LARGE = EDSRSpec(width=8, depth=2, scale=4), EDSRSpec(width=32, depth=3, scale=4)
QUICK: dict[str, Any] = {"lr_sizes": ((16, 12),), "seconds": 0.1, "memory": False, "quality": False, "threads": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models")
    for name, spec in (("small", SMALL), ("large", LARGE)):
        save_network(build(spec, seed=0), path / f"{name}.safetensors")
    return path


@pytest.fixture
def process(folder: Path, real_children: None) -> Iterator[ModelProcess]:
    opened = ModelProcess(folder / "large.safetensors", OpenOptions(threads=1))
    yield opened
    opened.close()


@pytest.mark.ci
def test_a_process_that_is_killed_is_lost_and_starts_anew_for_the_next_size(process: ModelProcess) -> None:
    """Memory is that of the model, whose upsampler holds at least two maps of 32 channels at 512x512 at once."""
    facts = process.facts
    assert (facts.runtime, facts.precision, facts.scale) == ("torch", "fp32", 4) and facts.spec is not None
    assert spec_from_dict(facts.spec) == LARGE
    small, large = (process.prepare((side, side, 1), memory=True).memory_mb for side in (16, 128))
    assert 0 < small < large < 1000 and large - small > 2 * 32 * 512 * 512 * 4 / 1e6 * 0.8
    assert len(process.turn((16, 16, 1), 3).ms) == 3
    pid = process._child._process.pid
    os.kill(pid, signal.SIGSEGV)
    with pytest.raises(ChildFailed, match=r"large\.safetensors: .*SIGSEGV"):
        process.turn((16, 16, 1), 3)
    assert is_gone(pid, seconds=5)
    assert len(process.turn((16, 16, 1), 2).ms) == 2 and process._child._process.pid != pid


@pytest.mark.ci
def test_rows_that_fail_are_lost_alone_with_their_reasons(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = TorchRuntime.run

    def fail(runtime: TorchRuntime, lr: torch.Tensor) -> torch.Tensor:
        if runtime.label == "small" and lr.shape[3] == 64:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        if runtime.label == "small" and lr.shape[3] == 32:
            raise ValueError("no such\nlayer")
        return run(runtime, lr)

    monkeypatch.setattr(TorchRuntime, "run", fail)
    settings = ProfileSettings(runtimes=("torch",), **{**QUICK, "lr_sizes": ((16, 12), (32, 8), (64, 8))})
    report = profile_models([folder / "small.safetensors"], teacher=folder / "large.safetensors", settings=settings)
    timed = [(row.model, row.lr_size) for row in report.rows]
    assert timed == [("large", "16x12"), ("small", "16x12"), ("large", "32x8"), ("large", "64x8")]
    assert [(row.model, row.lr_size, row.reason) for row in report.lost] == [
        ("small", "32x8", "running 32x8 failed: layer"),
        ("small", "64x8", "running 64x8 takes more memory than there is"),
    ]
    with pytest.raises(SrkdError, match="small under torch: running 64x8"):
        settings = ProfileSettings(runtimes=("torch",), **{**QUICK, "lr_sizes": ((64, 8),)})
        profile_models([folder / "small.safetensors"], settings=settings)


def test_a_row_that_dies_in_its_turn_leaves_the_others(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    turn, turns = MeasuredModel.turn, list[str]()

    def crash(model: MeasuredModel, **arguments: Any) -> dict[str, Any]:
        turns.append(model._runtime.label)
        if model._runtime.label == "large" and turns.count("large") == 5:
            raise ChildFailed("large", "its process crashed (SIGSEGV)", crashed=True)
        return turn(model, **arguments)

    monkeypatch.setattr(MeasuredModel, "turn", crash)
    settings = ProfileSettings(runtimes=("torch",), **QUICK)
    report = profile_models([folder / "small.safetensors"], teacher=folder / "large.safetensors", settings=settings)
    (row,), (lost,) = report.rows, report.lost
    assert (row.model, row.speedup_same_runtime, row.verdict) == ("small", None, None)
    assert (lost.model, lost.reason) == ("large", "large: its process crashed (SIGSEGV)")


@pytest.mark.ci
def test_several_precisions_sizes_and_batches_are_rows(folder: Path) -> None:
    settings = ProfileSettings(**{**QUICK, "lr_sizes": ((8, 8),)}, batches=(1, 2), precisions=("fp32", "bf16", "int8"))
    report = profile_models([folder / "small.safetensors"], teacher=folder / "small.safetensors", settings=settings)
    assert len(report.rows) == 2 * 7 and not report.lost
    first = [(row.verdict == "reference", row.runtime, row.precision) for row in report.rows[:7]]
    of_both, in_int8 = [("torch", "fp32"), ("torch", "bf16"), ("onnxruntime", "fp32")], (False, "onnxruntime", "int8")
    assert first == [*((is_teacher, *row) for is_teacher in (True, False) for row in of_both), in_int8]
    assert [(row.lr_size, row.batch) for row in report.rows[::7]] == [("8x8", 1), ("8x8", 2)]
    for row in report.rows:
        assert row.fps == pytest.approx(1000 * row.batch / row.latency_ms.p50)


def test_cuda_events_are_recorded_around_each_call_on_an_idle_device() -> None:
    calls: list[str] = []

    class Event:
        def __init__(self, *, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            calls.append("event")

        def synchronize(self) -> None:
            calls.append("wait")

        def elapsed_time(self, end: Event) -> float:
            return 2.5

    class Cuda:
        @staticmethod
        def synchronize() -> None:
            calls.append("idle")

    Cuda.Event = Event  # type: ignore[attr-defined]
    assert time_by_events(lambda: calls.append("call"), 2, Cuda) == (2.5, 2.5)
    assert calls == ["call", "idle", *["event", "call", "event", "wait"] * 2]


def test_conditions_name_the_machine_and_warn_of_others() -> None:
    conditions = observe()(("torch", "no-such-library"))
    assert conditions.versions["torch"].startswith(torch.__version__.split("+")[0])
    assert "no-such-library" not in conditions.versions
    assert conditions.busy_cores >= 0 and conditions.date.endswith("+00:00") and conditions.cpu
    busy = Conditions("now", "cpu", 2, None, None, 1.5, {})
    assert "other programs kept 1.5 cores busy" in busy.warnings[0]
    assert Conditions("now", "cpu", 2, None, None, 0.1, {}).warnings == ()


def test_more_threads_than_cores_are_refused_and_all_runtimes_are_those_that_work_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(machine, "usable_cores", lambda: 2)
    with pytest.raises(UsageError, match=r"threads=99: srkd may use 2 cores here.*give at most 2") as caught:
        ProfileSettings(threads=99)
    assert "\n" not in str(caught.value)
    assert ProfileSettings(threads=2).threads == 2
    everywhere = ProfileSettings(runtimes=("all",))
    assert {"torch", "onnxruntime"} <= set(everywhere.selected_runtimes)
    assert not {"coreml", "tensorrt"} & set(everywhere.selected_runtimes)
    assert any(note.startswith("coreml is left out: ") for note in everywhere.notes)
    assert everywhere.runtimes_for("onnxruntime")[0] == "onnxruntime"
    assert ProfileSettings().runtimes_for("ncnn") == ("ncnn",)
    assert ProfileSettings(runtimes=("torch",)).runtimes_for("ncnn") == ()


@contextmanager
def busy_machine(programs: int) -> Iterator[None]:
    """Keep this many programs running that never wait."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(programs)]
    try:
        yield
    finally:
        for program in running:
            program.kill()
            program.wait()


@pytest.mark.slow
@pytest.mark.parametrize("busy", [False, True])
def test_a_model_does_not_differ_from_itself_ten_times_of_ten(real_children: None, busy: bool) -> None:
    """Both rows have their own process; with `busy` other programs keep every core busy."""
    model = embedded_student()
    settings = ProfileSettings(runtimes=("torch",), **{**QUICK, "lr_sizes": ((48, 48),), "seconds": 1.0})
    with busy_machine((usable_cores() or 1) if busy else 0):
        reports = [profile_models([model], teacher=model, settings=settings) for _ in range(10)]
    verdicts = [row.verdict for report in reports for row in report.rows if row.verdict != "reference"]
    assert verdicts == ["no measurable difference"] * 10
