"""Facts decide the precision, measurements only on request; the choice is reported and stored; compilation may fail."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Literal, cast

import pytest
import torch
from torch import nn

import srkd
from compressor.base.choices import Precision
from compressor.base.precision import training_layout
from compressor.base.processes import Processes
from compressor.models.networks.base import Network
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import build
from compressor.teachers.teacher import Teacher
from compressor.training import speed
from compressor.training.loop import Trainer
from compressor.training.networks import build_networks
from compressor.training.speed import (
    CompiledForward,
    ExecutionMode,
    SpeedOptions,
    choose_execution_mode,
    should_compile,
)
from compressor.training.stage import Stage
from compressor.training.state import State
from recipes.config.reading import load_preset
from srkd.runs import decide
from srkd.runs.opened import speed_options
from srkd.runs.run import TrainingRun
from tests.support.training import Recorder, smooth_patch

CPU = torch.device("cpu")


def network(width: int = 8) -> Network:
    return build(EDSRSpec(scale=2, width=width, depth=2), seed=3)


def chosen(options: SpeedOptions | None = None, steps: int = 10**8) -> ExecutionMode:
    options = options or SpeedOptions()
    return choose_execution_mode(network(), steps=steps, batch=4, lr_patch=12, device=CPU, options=options)


def slow_in(monkeypatch: pytest.MonkeyPatch, **milliseconds: float) -> None:
    """Simulate the duration of a step in each precision, on any machine."""

    def measure(trial: speed._Trial) -> float:
        trial.run()
        return milliseconds[trial.precision] / 1e3

    monkeypatch.setattr(speed._Trial, "seconds", measure)


MEASURE = SpeedOptions(precision="measure")


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("slow", ["fp32", "bf16"])
def test_what_the_clock_says_changes_nothing_unless_it_is_asked(
    monkeypatch: pytest.MonkeyPatch, native: bool, slow: str
) -> None:
    """On a busy machine either precision may be slower; the same seed must train in the same one."""
    monkeypatch.setattr(speed, "computes_bf16", lambda device: native)
    slow_in(monkeypatch, **{"fp32": 1.0, "bf16": 1.0, slow: 1000.0})
    mode = chosen()
    expected_precision: Precision = "bf16" if native else "fp32"
    assert (mode.precision, mode.layout) == (expected_precision, training_layout(CPU, expected_precision))
    assert not mode.step_ms
    expected = "cpu computes bf16 natively here" if native else "cpu has no arithmetic for bf16 here"
    assert mode.line(12).endswith(expected)


@pytest.mark.parametrize(("fp32", "bf16", "wins"), [(20.0, 5.0, "bf16"), (5.0, 20.0, "fp32")])
def test_the_faster_precision_is_taken(monkeypatch: pytest.MonkeyPatch, fp32: float, bf16: float, wins: str) -> None:
    monkeypatch.setattr(speed, "computes_bf16", lambda device: True)
    slow_in(monkeypatch, fp32=fp32, bf16=bf16)
    mode = chosen(MEASURE)
    assert mode.precision == wins
    assert set(mode.step_ms) == {"fp32 channels_last", "fp32 contiguous", "bf16 channels_last", "bf16 contiguous"}
    assert mode.step_ms["fp32 channels_last"] >= fp32
    assert f"training in {wins}" in mode.line(12)
    assert "of 12x12" in mode.line(12)


@pytest.mark.parametrize(("last_ms", "expected"), [(95.0, ("fp32", "channels_last")), (80.0, ("bf16", "contiguous"))])
def test_noise_does_not_choose(monkeypatch: pytest.MonkeyPatch, last_ms: float, expected: tuple[str, str]) -> None:
    milliseconds = {"fp32 channels_last": 100.0, "fp32 contiguous": 95.0, "bf16 channels_last": 95.0}
    milliseconds["bf16 contiguous"] = last_ms
    monkeypatch.setattr(speed, "computes_bf16", lambda device: True)
    monkeypatch.setattr(speed, "_measure", lambda trials: {trial.name: milliseconds[trial.name] for trial in trials})
    mode = chosen(MEASURE)
    assert (mode.precision, mode.layout) == expected


def test_a_processor_without_bf16_is_never_asked_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    slow_in(monkeypatch, fp32=1.0)
    assert set(chosen(MEASURE).step_ms) == {"fp32 channels_last", "fp32 contiguous"}
    assert chosen().precision == "fp32"


def test_a_short_run_trains_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "computes_bf16", lambda device: True)
    mode = chosen(steps=3)
    assert (mode.precision, mode.layout, mode.reason) == ("fp32", training_layout(CPU, "fp32"), "a short run")


@pytest.mark.parametrize(
    ("device", "precision", "processor", "expected"),
    [
        ("cpu", "fp32", {"architecture": "x86_64", "avx2": True}, "contiguous"),
        ("cpu", "fp32", {"architecture": "x86_64", "avx2": True, "avx512_f": True}, "channels_last"),
        ("cpu", "bf16", {"architecture": "x86_64", "avx2": True}, "channels_last"),
        ("cpu", "fp32", {"architecture": "aarch64"}, "channels_last"),
        ("cuda", "fp32", {"architecture": "x86_64", "avx2": True}, "channels_last"),
    ],
)
def test_channels_are_first_where_gradients_of_weights_are_slow(
    device: str, precision: Precision, processor: dict[str, object], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: processor)
    assert training_layout(torch.device(device), precision) == expected


def test_what_is_frozen_has_channels_last_unless_measured() -> None:
    def channels_are_last(mode: ExecutionMode, *, frozen: bool) -> bool:
        weight = mode.lay_out(nn.Conv2d(2, 2, 3), frozen=frozen).weight
        return weight.is_contiguous(memory_format=torch.channels_last)

    by_facts = ExecutionMode("fp32", "contiguous")
    assert not channels_are_last(by_facts, frozen=False) and channels_are_last(by_facts, frozen=True)
    assert not channels_are_last(replace(by_facts, step_ms={"fp32 contiguous": 1.0}), frozen=True)


def test_measuring_leaves_the_student_as_it_was() -> None:
    student = network()
    before = student.fingerprint(), student.training
    state = torch.random.get_rng_state()
    choose_execution_mode(student, steps=10**6, batch=2, lr_patch=12, device=CPU, options=MEASURE)
    assert (student.fingerprint(), student.training) == before
    assert all(parameter.grad is None for parameter in student.parameters())
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_teacher_runs_in_its_own_precision() -> None:
    def target(teacher_precision: str) -> torch.Tensor:
        preset = load_preset("logits", [f"schedule.teacher_precision={teacher_precision}"])
        one = preset.stage(preset.build_methods())
        networks = build_networks(one, State.fresh(network(), None, one), network(16), print, Processes())
        assert networks.teacher is not None
        return networks.teacher(smooth_patch().at(0).lr, ()).sr

    exact, rounded = target("fp32"), target("bf16")
    assert exact.dtype == rounded.dtype == torch.float32
    assert 0 < (exact - rounded).abs().max() < 0.05


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_teacher_has_the_precision_of_its_student(precision: Literal["fp32", "bf16"]) -> None:
    for of_teacher, expected in (("auto", precision), ("fp32", "fp32"), ("bf16", "bf16")):
        options = SpeedOptions(precision=precision, teacher_precision=of_teacher)  # type: ignore[arg-type]
        assert chosen(options).teacher_precision == expected
    assert load_preset("logits-paper").speed_options().of_teacher("fp32") == "fp32"


def test_run_json_keeps_the_pace_and_a_resumed_run_does_not_measure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    small = ("schedule.batch=2", "schedule.lr_patch=8", "schedule.precision=bf16", "schedule.validate_every=1")
    student = "edsr:width=4,depth=1,scale=4"

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(TrainingRun, "_report", stop)
    with pytest.raises(KeyboardInterrupt):
        srkd.compress(recipe="scratch", student=student, steps=2, settings=small, out=run)
    monkeypatch.undo()
    recorded = json.loads((run / "run.json").read_text())["execution_mode"]
    assert recorded["precision"] == "bf16"

    def measured(*_: object, **__: object) -> ExecutionMode:
        raise AssertionError("a resumed run measured again")

    monkeypatch.setattr(decide, "choose_execution_mode", measured)
    srkd.resume(run)
    assert json.loads((run / "run.json").read_text())["execution_mode"] == recorded


def test_compilation_is_for_long_runs_on_a_gpu() -> None:
    cuda = torch.device("cuda")
    assert should_compile("auto", device=cuda, steps=25_000)
    assert not should_compile("auto", device=cuda, steps=100)
    assert not should_compile("auto", device=CPU, steps=25_000)
    assert should_compile("on", device=CPU, steps=1)
    assert not should_compile("off", device=cuda, steps=25_000)


def losses(compile: str, events: Recorder) -> list[float]:
    preset = load_preset("scratch", [f"schedule.compile={compile}", "schedule.steps=5", "schedule.rate=1e-3"])
    stage: Stage = preset.stage(preset.build_methods())
    Trainer([stage], State.fresh(network(), None, stage), smooth_patch(), None, events, seed=1).run()
    return [numbers["loss"] for numbers in events.losses]


def test_where_the_compiler_fails_training_goes_on_as_if_it_had_not_been_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_compiler(*_: object, **__: object) -> torch.Tensor:
        raise RuntimeError("no C++ compiler\nand a long story")

    monkeypatch.setattr(speed.torch, "compile", lambda network, **_: no_compiler)
    events = Recorder()
    assert losses("on", events) == losses("off", Recorder())
    assert events.notes == ["torch.compile failed, so training goes on without it: no C++ compiler"]


def test_gradients_of_the_trial_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    student = network().train()
    monkeypatch.setattr(speed.torch, "compile", lambda network, **_: network)
    CompiledForward(student, trains=True, note=print)(torch.rand(1, 3, 8, 8))
    assert all(parameter.grad is None for parameter in student.parameters())


@pytest.mark.slow
def test_compiled_training_is_eager_training() -> None:
    events = Recorder()
    assert losses("on", events) == pytest.approx(losses("off", Recorder()), rel=1e-4)
    assert events.notes == []


def test_a_teacher_that_is_no_network_of_srkds_stays_in_fp32() -> None:
    def options(settings: Sequence[str], network: object) -> SpeedOptions:
        return speed_options(load_preset("logits", settings), cast(Teacher, SimpleNamespace(network=network)))

    assert options((), None).teacher_precision == "fp32"
    assert options((), network()).teacher_precision == "auto"
    assert options(("schedule.teacher_precision=bf16",), None).teacher_precision == "bf16"
