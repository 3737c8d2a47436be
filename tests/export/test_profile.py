"""Reliable latencies: paired turns, a rule for 'no difference', and every figure with its conditions."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import export.profile.models
import export.timing.turns
from compressor.base.errors import SrkdError, UsageError
from compressor.models.checkpoints.save import save_network
from compressor.models.networks.cost import cost
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import build
from export.convert.to_onnx import convert
from export.formats.conversion import Conversion
from export.profile.onnx_cost import onnx_cost
from export.profile.report import ProfileReport, ProfileRow, profile_models
from export.profile.settings import ProfileSettings
from export.proof.verify import Proof
from export.timing.turns import MIN_ROUNDS, CallTimes, TurnTimes, compare, measure_turns, take_turns
from tests.support.clock import Clock
from tests.support.onnx_files import enlarger

SMALL, LARGE = EDSRSpec(width=8, depth=2, scale=4), EDSRSpec(width=32, depth=3, scale=4)
QUICK = {"lr_sizes": ((32, 24),), "seconds": 0.15, "memory": False, "quality": False, "threads": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with small and large .safetensors, small.onnx and foreign.onnx (large without metadata)."""
    path = tmp_path_factory.mktemp("models")
    for name, spec in (("small", SMALL), ("large", LARGE)):
        save_network(build(spec, seed=0), path / f"{name}.safetensors")
    convert(Conversion(build(SMALL, seed=0), path / "small.onnx", {"srkd.spec": json.dumps(SMALL.to_dict())}))
    convert(Conversion(build(LARGE, seed=0), path / "foreign.onnx", {}))
    return path


def noisy(milliseconds: float, seed: int, rounds: int = 20, drift: float = 0.5) -> CallTimes:
    """Return calls that slow down with the machine, each with its own noise of 3 %."""
    rng, machine = np.random.default_rng(seed), np.random.default_rng(99)
    slowness = 1 + drift * np.abs(np.cumsum(machine.normal(0, 0.2, rounds)))
    return CallTimes(tuple(tuple(milliseconds * slow * rng.normal(1, 0.03, 5)) for slow in slowness))


@pytest.mark.parametrize(
    ("milliseconds", "verdict"), [(10.1, "no measurable difference"), (11.0, "slower"), (5.0, "faster")]
)
def test_paired_ratios_see_through_a_machine_that_drifts(milliseconds: float, verdict: str) -> None:
    result = compare(noisy(10.0, 1), noisy(milliseconds, 2))
    assert result.verdict == verdict and result.low <= result.speedup <= result.high
    assert result.speedup == pytest.approx(10.0 / milliseconds, rel=0.03)


def test_the_rule_is_rarely_wrong() -> None:
    verdicts = [compare(noisy(10.0, 2 * seed, 8), noisy(10.0, 2 * seed + 1, 8)).verdict for seed in range(300)]
    assert sum(verdict != "no measurable difference" for verdict in verdicts) <= 6


def test_a_measurable_but_tiny_difference_is_none() -> None:
    exact, longer = (CallTimes(((ms,),) * 30) for ms in (10.0, 10.15))
    assert compare(exact, longer).verdict == "no measurable difference"
    assert compare(exact, CallTimes(((10.3,),) * 30)).verdict == "slower"
    # An interval that reaches to it is none, either: two processes of one model may differ slightly over many rounds.
    reference, other = CallTimes(((10.0,),) * 8), CallTimes(tuple((ms,) for ms in (9.85, *[9.5] * 7)))
    assert compare(reference, other).verdict == "no measurable difference"


def test_a_process_that_waits_longer_in_every_round_is_not_slower_unless_it_also_works_longer() -> None:
    waiting, working = CallTimes(((15.0,),) * 9, (10.0,) * 9), CallTimes(((15.0,),) * 9, (15.0,) * 9)
    reference = CallTimes(((10.0,),) * 9, (10.0,) * 9)
    assert compare(reference, waiting).verdict == compare(waiting, reference).verdict == "no measurable difference"
    assert (compare(reference, working).verdict, compare(working, reference).verdict) == ("slower", "faster")
    assert compare(reference, CallTimes(((15.0,),) * 9)).verdict == "slower"


def test_the_spread_is_the_distance_of_the_quartiles_in_percent_of_the_median() -> None:
    times = CallTimes((tuple(range(1, 202, 2)), tuple(range(2, 201, 2))))  # 1 to 201
    assert (times.percentile(50), times.spread_percent) == (101, pytest.approx(100 * (151 - 51) / 101))


@pytest.mark.parametrize(("rounds", "outside"), [(8, 0), (12, 1), (100, 36)])
def test_the_interval_covers_the_median_with_99_percent(rounds: int, outside: int) -> None:
    result = compare(CallTimes(((1.0,),) * rounds), CallTimes(tuple((1.0 / (i + 1),) for i in range(rounds))))
    assert (result.low, result.high) == (pytest.approx(1 + outside), pytest.approx(rounds - outside))
    missed = 2 * sum(math.comb(rounds, k) for k in range(outside + 1)) / 2**rounds
    assert missed <= 0.01 or outside == 0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(export.timing.turns.time, "perf_counter", clock.perf_counter)
    return clock


def test_everyone_has_a_turn_in_each_round_and_warm_up_does_not_count(clock: Clock) -> None:
    slow, quick = take_turns([clock.work("s", 0.5, 9.0), clock.work("q", 0.01, 0.0101)], seconds_each=1.0)
    assert slow.samples == pytest.approx([500.0] * 8) and quick.samples == pytest.approx([10.0] * 40)
    assert len(slow.rounds) == len(quick.rounds) == MIN_ROUNDS
    assert {len(turn) for turn in slow.rounds} == {1} and {len(turn) for turn in quick.rounds} == {5}
    # Warm-up until it gets no faster: s after its slow first call, q after one check of 0.05 s. Then turns in
    # alternating order; a short call runs once untimed before its turn.
    assert clock.calls == "sss" + "q" * 7 + ("s" + "q" * 6 + "q" * 6 + "s") * (MIN_ROUNDS // 2)
    assert (slow.warm_up_calls, quick.warm_up_calls) == (3, 6) and slow.is_steady and quick.is_steady


def test_a_model_that_keeps_getting_faster_is_warmed_up_for_as_long_as_it_is_measured(clock: Clock) -> None:
    count = 0

    def hasten() -> None:
        nonlocal count
        count += 1
        clock.now += max(0.05, 0.2 * 0.9**count)

    (timing,) = take_turns([hasten], seconds_each=1.0)
    assert not timing.is_steady and 6 <= timing.warm_up_calls <= 20
    assert clock.now > 1.0


def test_one_that_fails_is_lost_alone_and_the_others_go_on() -> None:
    turns_left = {"early": 0, "late": 4, "well": 10**6}
    lost: list[tuple[int, str]] = []

    def turn(name: str, calls: int) -> TurnTimes:
        turns_left[name] -= 1
        if turns_left[name] < 0:
            raise SrkdError(f"{name} has crashed")
        return TurnTimes((10.0,) * calls)

    names = list(turns_left)
    timings = measure_turns(
        [lambda calls, name=name: turn(name, calls) for name in names],  # type: ignore[misc]
        seconds_each=0.001,
        lost=lambda index, error: lost.append((index, str(error))),
    )
    assert lost == [(0, "early has crashed"), (1, "late has crashed")]
    assert timings[0] is timings[1] is None
    assert timings[2] is not None and len(timings[2].rounds) >= MIN_ROUNDS
    with pytest.raises(SrkdError, match="late has crashed"):
        measure_turns([lambda calls: turn("late", calls)], seconds_each=0.001)


def test_the_budget_is_kept_and_progress_moves_forward(clock: Clock) -> None:
    counts: list[tuple[str, int, int]] = []
    timings = take_turns(
        [clock.work("a", 0.1), clock.work("b", 0.1)], seconds_each=10.0, progress=lambda *event: counts.append(event)
    )
    assert 15.0 <= sum(sum(timing.samples) for timing in timings) / 1000 <= 22.0
    measured = [done for title, done, _ in counts if title == "measure"]
    assert measured == sorted(measured) and measured[-1] == 1000


@pytest.fixture(scope="module")
def report(folder: Path) -> Iterator[ProfileReport]:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    settings = ProfileSettings(**{**QUICK, "lr_sizes": ((32, 24), (16, 8)), "quality": True, "batches": (2,)})  # type: ignore[arg-type]
    yield profile_models([folder / "small.safetensors"], teacher=folder / "large.safetensors", settings=settings)
    assert torch.get_num_threads() == 2, "the number of threads is put back"
    torch.set_num_threads(threads)


def test_every_row_says_under_what_conditions(report: ProfileReport) -> None:
    assert [(row.model, row.runtime, row.lr_size) for row in report.rows] == [
        (model, runtime, size)
        for size in ("32x24", "16x8")
        for model in ("large", "small")
        for runtime in ("torch", "onnxruntime")
    ]
    for row in report.rows:
        assert (row.device, row.precision, row.batch, row.threads) == ("cpu", "fp32", 2, 1)
        assert row.fps == pytest.approx(2000 / row.latency_ms.p50)
        assert row.latency_ms.p50 <= row.latency_ms.p95 <= row.latency_ms.p99
        width, height = map(int, row.lr_size.split("x"))
        counted = cost(LARGE if row.model == "large" else SMALL, (width, height))
        assert (row.params, row.macs) == (counted.params, counted.macs)
        assert row.gmacs_per_second == pytest.approx(2 * counted.macs / row.latency_ms.p50 / 1e6)
        assert row.megapixels_per_second == pytest.approx(row.fps * width * height * 16 / 1e6)
        assert row.peak_memory_mb is None and row.rounds >= MIN_ROUNDS


def test_the_smaller_one_is_told_faster(report: ProfileReport) -> None:
    assert report.teacher == "large"
    assert by_size(report, "large", "torch").verdict == "reference"
    for runtime in ("torch", "onnxruntime"):
        row = by_size(report, "small", runtime)
        if row.verdict == "no measurable difference":
            assert row.speedup_interval is None or row.speedup_interval[0] <= 1 <= row.speedup_interval[1]
            pytest.skip("the machine is too busy to tell the two apart")
        assert row.verdict == "faster" and row.speedup_same_runtime is not None
        assert row.speedup_interval is not None and row.speedup_interval[0] > 1
        assert row.speedup_vs_teacher_eager is not None
    of_srkd = by_size(report, "small", "torch")
    assert of_srkd.speedup_vs_teacher_eager == of_srkd.speedup_same_runtime


def by_size(report: ProfileReport, model: str, runtime: str, size: str = "32x24") -> ProfileRow:
    (row,) = (row for row in report.rows if (row.model, row.runtime, row.lr_size) == (model, runtime, size))
    return row


def test_quality_stands_beside_speed(report: ProfileReport) -> None:
    assert [quality.model for quality in report.quality] == ["bicubic", "large", "small"]
    assert report.protocol.startswith("psnr@y,border=scale")
    bicubic, *untrained = report.quality
    assert bicubic.psnr_y is not None and bicubic.psnr_y > 25 and bicubic.over_bicubic == 0
    assert all(quality.psnr_y is not None and quality.psnr_y < bicubic.psnr_y for quality in untrained)
    # The teacher's weights are random: what is asked is who is near to its images.
    large, small = untrained
    assert report.goal == "teacher" and large.psnr_y_teacher is None and large.over_bicubic is None
    assert small.over_bicubic == pytest.approx(small.psnr_y_teacher - bicubic.psnr_y_teacher)
    assert not any("BELOW BICUBIC" in note for note in report.notes)


def test_exported_files_take_part_with_their_cost(folder: Path) -> None:
    models = [folder / "small.onnx", folder / "foreign.onnx"]
    result = profile_models(models, settings=ProfileSettings(**QUICK))  # type: ignore[arg-type]
    small, foreign = result.rows
    for row, spec in ((small, SMALL), (foreign, LARGE)):
        counted = cost(spec, (32, 24))
        assert (row.runtime, row.params, row.macs) == ("onnxruntime", counted.params, counted.macs)
        assert row.speedup_same_runtime is row.verdict is None
    assert result.teacher is None
    assert onnx_cost(folder / "foreign.onnx", (40, 30)) == cost(LARGE, (40, 30))


@pytest.mark.ci
def test_the_teacher_is_timed_in_torch_even_when_only_another_runtime_was_asked_for(folder: Path) -> None:
    settings = ProfileSettings(runtimes=("onnxruntime",), **QUICK)  # type: ignore[arg-type]
    result = profile_models([folder / "small.onnx"], teacher=folder / "large.safetensors", settings=settings)
    assert [(row.model, row.runtime) for row in result.rows] == [
        ("large", "torch"),
        ("large", "onnxruntime"),
        ("small", "onnxruntime"),
    ]
    assert result.rows[2].speedup_vs_teacher_eager is not None


def test_an_export_that_fails_is_a_note_not_a_row(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = Proof(None, "gives nan on black at n=0 c=0 y=0 x=0")
    monkeypatch.setattr(export.profile.models, "prove", lambda *_, **__: failed)
    result = profile_models([folder / "small.safetensors"], settings=ProfileSettings(**QUICK))  # type: ignore[arg-type]
    assert [row.runtime for row in result.rows] == ["torch"]
    assert any("small is left out under onnxruntime: its export gives nan" in note for note in result.notes)


def test_what_cannot_be_profiled_is_told_in_one_line(folder: Path, tmp_path: Path) -> None:
    torch_only = ProfileSettings(runtimes=("torch",), **QUICK)  # type: ignore[arg-type]
    with pytest.raises(SrkdError, match=r"small.onnx runs under onnxruntime, which is not among the runtimes"):
        profile_models([folder / "small.onnx"], settings=torch_only)
    with pytest.raises(SrkdError, match=r"none\.pt"):
        profile_models([tmp_path / "none.pt"], settings=torch_only)
    with pytest.raises(UsageError, match="no model was given"):
        profile_models([])
    with pytest.raises(UsageError, match="nothing to measure"):
        ProfileSettings(lr_sizes=())


def test_unlike_scales_are_noted_and_labels_are_unique(folder: Path, tmp_path: Path) -> None:
    save_network(build(EDSRSpec(width=8, depth=2, scale=2), seed=0), tmp_path / "small.safetensors")
    settings = ProfileSettings(runtimes=("torch",), **QUICK)  # type: ignore[arg-type]
    result = profile_models([tmp_path / "small.safetensors"], teacher=folder / "small.safetensors", settings=settings)
    assert [row.model for row in result.rows] == ["small", "small#2"]
    assert any("scales differ" in note and "small#2 x2" in note for note in result.notes)
    assert replace(settings, scale=2).for_file("onnxruntime", "int8").scale == 2, "exported files are reduced, too"


def test_a_foreign_file_whose_shapes_are_unknown_has_no_cost(folder: Path, tmp_path: Path) -> None:
    model = onnx.load_model(str(folder / "foreign.onnx"))
    model.graph.node[1].op_type, model.graph.node[1].domain = "Mystery", "elsewhere"
    onnx.save_model(model, str(tmp_path / "odd.onnx"))
    assert onnx_cost(tmp_path / "odd.onnx", (8, 8)) is None
    counted = onnx_cost(enlarger(tmp_path / "eight.onnx", int8=True), (8, 8))
    assert counted is not None and counted.params == 9, "weights behind a DequantizeLinear"


def test_converters_get_weights_that_lie_as_in_the_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch uses channels-last weights, which not every converter takes."""
    layouts: list[bool] = []

    def refuse(row: object, network: torch.nn.Module, *_: object, **__: object) -> None:
        layouts.extend(parameter.is_contiguous() for parameter in network.parameters())
        raise SrkdError("not now")

    monkeypatch.setattr(export.profile.models, "convert_to", refuse)
    profile_models([folder / "large.safetensors"], settings=ProfileSettings(**QUICK))  # type: ignore[arg-type]
    assert layouts and all(layouts)
