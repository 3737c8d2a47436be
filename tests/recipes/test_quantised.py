"""PAMS and PACT: attention, calibration, the rates of the ranges, and compatible methods."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from compressor.base.errors import UsageError
from compressor.models.networks.base import Network
from compressor.models.networks.carn import CARNSpec
from compressor.models.networks.compact import CompactSpec
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import build, quantise
from compressor.models.quantisation.quantisers import SMALLEST_ALPHA, quantisers_of
from compressor.training.state import RATE_RATIO
from recipes.config.options import make_method
from recipes.config.reading import load_preset
from recipes.methods.pact import Pact
from recipes.methods.pams import Pams, attention_distance, attention_map
from recipes.terms.quantised import average_share
from tests.support.method_runs import Curve, Pair
from tests.support.tensors import noise

STUDENT = EDSRSpec(scale=2, width=4, depth=2)
TEACHER = EDSRSpec(scale=2, width=8, depth=2)


def alphas(network: Network) -> list[float]:
    return [float(quantiser.alpha.detach()) for quantiser in quantisers_of(network).values()]


# Attention.


def test_attention_by_hand() -> None:
    """For two channels and two positions: mean squares (5, 10) and (2.5, 0), over their norms."""
    student = torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]])
    teacher = torch.tensor([[[[2.0, 0.0]], [[1.0, 0.0]]]])
    assert attention_map(student).tolist() == [pytest.approx([5 / math.sqrt(125), 10 / math.sqrt(125)])]
    expected = ((5 / math.sqrt(125) - 1) ** 2 + (10 / math.sqrt(125)) ** 2) / 2
    assert float(attention_distance(student, teacher)) == pytest.approx(expected)


def test_attention_knows_no_channels_and_no_scale() -> None:
    student, teacher = noise(3, 4, 5, 6), noise(3, 7, 5, 6, seed=1)
    value = attention_distance(student, teacher)
    assert torch.allclose(attention_distance(9 * student, teacher / 3), value)
    assert torch.allclose(attention_distance(student[:, [3, 1, 0, 2]], teacher), value)
    assert float(attention_distance(student, student)) == 0.0


# Calibration.


def test_the_average_is_that_of_all_batches_without_bias() -> None:
    """It equals the exponential average that starts at 0, over the sum of its weights."""
    values, average, plain = [3.0, 5.0, 4.0, 10.0], 0.0, 0.0
    for count, value in enumerate(values, 1):
        average += average_share(count) * (value - average)
        plain = 0.9997 * plain + (1 - 0.9997) * value
        assert average == pytest.approx(plain / (1 - 0.9997**count), rel=1e-9)
    assert average == pytest.approx(sum(values) / 4, rel=1e-3), "so few steps count alike"


def test_the_steps_of_calibration_follow_those_of_the_run() -> None:
    for steps, expected in ((30, 1), (2_900, 100), (29_000, 1000), (300_000, 1000)):
        first, main = Pair.build(Pams(), STUDENT, TEACHER, steps=steps).stages
        assert (first.name, first.schedule.steps, main.schedule.steps) == ("calibrate", expected, steps)
        assert first.schedule.rate == main.schedule.rate
    assert [stage.name for stage in Pair.build(Pact(), STUDENT, TEACHER).stages] == ["distil"]


def watched(pair: Pair) -> tuple[dict[str, list[torch.Tensor]], dict[str, float]]:
    """Calibrate; return the largest feature of each sample at each quantiser, by pass, and the ranges."""
    state, peaks = pair.fresh(), dict[str, list[torch.Tensor]]()
    for name, quantiser in quantisers_of(state.student).items():

        def note(_module: object, inputs: tuple[torch.Tensor, ...], name: str = name) -> None:
            peaks.setdefault(name, []).append(inputs[0].detach().abs().flatten(1).amax(1))

        quantiser.register_forward_pre_hook(note)
    replace(pair, stages=pair.stages[:1]).train(state)
    return peaks, {name: float(quantiser.alpha.detach()) for name, quantiser in quantisers_of(state.student).items()}


def test_alpha_is_the_average_of_the_largest_features() -> None:
    """After one calibration step on one batch: the mean over samples of max |v|, read at the places themselves."""
    peaks, ranges = watched(Pair.build(Pams(), STUDENT, TEACHER, steps=30))
    assert ranges == pytest.approx({name: float(passes[0].mean()) for name, passes in peaks.items()}, rel=1e-5)


def test_outside_the_blocks_nothing_that_was_seen_is_clipped() -> None:
    """With every layer quantised, α is the largest feature of all samples and steps, regardless of later ones."""
    peaks, ranges = watched(Pair.build(Pams(placement="all"), STUDENT, TEACHER, steps=120))
    own = {name for name in ranges if name.endswith(".input")}
    assert {"head.input", "tail.input"} <= own and len(own) < len(ranges)
    for name, value in ranges.items():
        largest = float(torch.cat(peaks[name]).max())
        assert (value == pytest.approx(largest, rel=1e-6)) == (name in own), name


def test_a_resumed_calibration_gives_the_same_ranges(tmp_path: Path) -> None:
    pair = Pair.build(Pams(), STUDENT, TEACHER, steps=180)
    pair = replace(pair, stages=pair.stages[:1])
    straight = pair.fresh()
    losses = pair.train(straight, curve=Curve(tmp_path / "state.pt", at=4))
    again = replace(Pair.build(Pams(), STUDENT, TEACHER, steps=180), stages=pair.stages)
    resumed = again.fresh()
    resumed.load(tmp_path / "state.pt", again.stages, again.teacher)
    assert len(losses) == 6 and again.train(resumed) == losses[-2:]
    assert alphas(resumed.student) == alphas(straight.student)


def test_pacts_alpha_starts_where_it_is_told() -> None:
    for alpha in (10.0, 2.5):
        assert set(alphas(Pair.build(Pact(alpha=alpha), STUDENT, TEACHER).student)) == {alpha}


# Rates.


def test_ranges_have_their_own_rate_and_only_pacts_decay() -> None:
    for method, decay in ((Pams(), 0.0), (Pact(), 1e-4)):
        pair = Pair.build(method, STUDENT, TEACHER)
        state, rate = pair.fresh(), pair.stages[0].schedule.rate
        weights, ranges = state.optimiser.param_groups
        assert rate * ranges[RATE_RATIO] == pytest.approx(1e-2) and weights[RATE_RATIO] == 1.0
        assert (weights["weight_decay"], ranges["weight_decay"]) == (0, decay)
        assert {id(one) for one in ranges["params"]} == {id(one.alpha) for one in quantisers_of(state.student).values()}
        assert len(weights["params"]) + len(ranges["params"]) == len(list(state.student.parameters()))


def test_the_rate_of_ranges_is_that_of_the_networks_own_range() -> None:
    """Adam's steps equal the rate, whatever the gradient: 1e-2 of 255 corresponds to 1e-2/255 of 1."""
    for spec, expected in (
        (EDSRSpec(2, width=4, depth=1), 1e-2),
        (EDSRSpec(2, width=4, depth=1, img_range=1.0), 1e-2 / 255),
        (CARNSpec(2, width=4), 1e-2 / 255),
        (CompactSpec(2, width=4, depth=1), 1e-2 / 255),
    ):
        (own,) = Pams().own_rates(quantise(build(spec), Pams().quantisation), torch.nn.ModuleDict())
        assert own.rate == pytest.approx(expected), spec.arch


def test_the_rate_follows_the_schedule_and_a_range_stays_positive() -> None:
    pair = Pair.build(Pact(alpha=2e-3, alpha_rate=1.0), STUDENT, TEACHER, settings=("schedule.decay=cosine",))
    state = pair.fresh()
    pair.train(state)
    weights, ranges = state.optimiser.param_groups
    assert ranges["lr"] == pytest.approx(weights["lr"] * ranges[RATE_RATIO]) and weights["lr"] < 1e-3
    assert min(alphas(state.student)) >= SMALLEST_ALPHA > 0


# Runs.


@pytest.mark.parametrize("method", ["pams", "pact"])
def test_at_eight_bits_a_trained_student_is_as_good_as_the_float_one(method: str) -> None:
    """Within 0.1 dB, from the same weights and on the same batches."""
    errors = {}
    for bits in (8, 32):
        instance = make_method(method, {"bits": bits, **({"alpha": None} if method == "pact" else {})})
        pair = Pair.build(instance, STUDENT, TEACHER, steps=30)
        errors[bits] = sum(row["raw/pixel"] for row in pair.train(pair.fresh(), still=True)[-5:])
    assert abs(20 * math.log10(errors[8] / errors[32])) < 0.1


def test_a_float_student_is_refused() -> None:
    student = build(STUDENT, seed=0)
    with pytest.raises(UsageError, match="this edsr is a float network"):
        Pams().fit(None, student)


def test_presets_start_from_the_float_weights_and_pacts_finds_its_range() -> None:
    for name in ("pams-paper", "pact-paper"):
        assert (load_preset(name).student.init, load_preset(name).student.width) == ("inherit", 1.0)
    assert load_preset("pact").build_methods() == (Pact(alpha=None),)
