"""Facts decide the precision; the choice is stored; compilation may fail."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, cast

import pytest
import torch
from torch import nn

import srkd
from compressor.base.choices import Precision
from compressor.base.compute_device import ComputeDevice
from compressor.base.context import Context
from compressor.base.decided import ExecutionMode, SpeedOptions
from compressor.base.precision import training_layout
from compressor.base.processes import Processes
from compressor.models.networks.base import Network
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import build
from compressor.teachers.teacher import Teacher
from compressor.training import speed
from compressor.training.loop import Trainer
from compressor.training.networks import build_networks
from compressor.training.speed import choose_execution_mode, should_compile
from compressor.training.stage import Stage
from compressor.training.state import State
from recipes.config.reading import load_preset
from srkd.options.compress import CompressOptions
from srkd.runs import decide
from srkd.runs.opened import speed_options
from srkd.runs.run import TrainingRun
from tests.support.run_files import read_json
from tests.support.training import Recorder, smooth_patch

CPU = torch.device("cpu")


def network(width: int = 8) -> Network:
    return build(EDSRSpec(scale=2, width=width, depth=2), seed=3)


def chosen(options: SpeedOptions | None = None, steps: int = 10**8) -> ExecutionMode:
    options = options or SpeedOptions()
    return choose_execution_mode(network(), steps=steps, batch=4, lr_patch=12, device=CPU, options=options)


@pytest.mark.parametrize("native", [True, False])
def test_the_processor_decides(monkeypatch: pytest.MonkeyPatch, native: bool) -> None:
    monkeypatch.setattr(ComputeDevice, "computes_bf16", native)
    mode = chosen()
    expected: Precision = "bf16" if native else "fp32"
    assert (mode.precision, mode.layout) == (expected, training_layout(CPU, expected))
    assert chosen(SpeedOptions(precision="bf16")).precision == "bf16"


def test_a_short_run_trains_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ComputeDevice, "computes_bf16", True)
    mode = chosen(steps=3)
    assert (mode.precision, mode.layout, mode.reason) == ("fp32", training_layout(CPU, "fp32"), "a short run")


@pytest.mark.parametrize(
    ("words", "precision"),
    [
        ({}, "bf16"),
        ({"recipe": "scratch"}, "fp32"),
        ({"teacher_cache": True}, "fp32"),
        ({"settings": ("schedule.teacher_precision=fp32",)}, "fp32"),
    ],
)
def test_the_teachers_work_counts_where_it_has_the_students_precision(
    monkeypatch: pytest.MonkeyPatch, words: dict[str, Any], precision: Precision
) -> None:
    monkeypatch.setattr(ComputeDevice, "computes_bf16", True)
    options = CompressOptions.of(student="edsr:width=4,depth=1,scale=4", init="random", steps=200, **words)
    assert decide.decide(options, Context()).execution_mode.precision == precision


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


def test_what_is_frozen_has_channels_last() -> None:
    mode = ExecutionMode("fp32", "contiguous")
    for frozen in (False, True):
        weight = mode.lay_out(nn.Conv2d(2, 2, 3), frozen=frozen).weight
        assert weight.is_contiguous(memory_format=torch.channels_last) == frozen


def test_the_teacher_runs_in_its_own_precision() -> None:
    def target(teacher_precision: str) -> torch.Tensor:
        preset = load_preset("logits", [f"schedule.teacher_precision={teacher_precision}"])
        one = preset.stage(preset.build_methods())
        networks = build_networks(one, State.fresh(network(), None, one), network(16), print, Processes())
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


def test_a_resumed_run_keeps_its_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    small = ("schedule.batch=2", "schedule.lr_patch=8", "schedule.precision=bf16", "schedule.validate_every=1")
    student = "edsr:width=4,depth=1,scale=4"

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(TrainingRun, "_report", stop)
    with pytest.raises(KeyboardInterrupt):
        srkd.compress(recipe="scratch", student=student, steps=2, settings=small, out=run)
    monkeypatch.undo()
    recorded = read_json(run)["execution_mode"]
    assert recorded["precision"] == "bf16"

    monkeypatch.setattr(decide, "choose_execution_mode", stop)
    srkd.resume(run)
    assert read_json(run)["execution_mode"] == recorded


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
