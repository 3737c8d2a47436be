"""Several methods in one preset: allowed combinations, refusals with reasons, and conflicting weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import get_args

import pytest
import torch

from compressor.base.errors import SrkdError, UsageError
from compressor.base.yaml_errors import YamlError
from compressor.models.networks.base import Network
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import build, quantise
from compressor.models.students.students import cut_student
from compressor.training.calibration import Blend, Calibrated
from compressor.training.loop import Trainer
from compressor.training.method import Kind, Method, fit_methods, quantisation_of, term_weights
from compressor.training.state import State
from compressor.training.step import Step
from recipes.composition import REFUSED, disagreements, refusals
from recipes.config.options import make_method
from recipes.config.reading import load_preset, read_preset
from recipes.methods.scratch import Scratch
from recipes.terms.phi import PhiSource, bind_phi
from tests.support.method_runs import StubMethod, Waves
from tests.support.methods_table import ROWS, Row
from tests.support.training import Recorder, SavingRecorder, is_same, network, smooth_patch, stage

ALLOWED: tuple[tuple[Kind, Kind], ...] = (
    *(("output", kind) for kind in ("feature", "data")),
    *(("data", kind) for kind in ("feature", "contrast", "joint")),
    *(("heads", kind) for kind in ("output", "feature", "data")),
    ("bands", "output"),
    ("quantised", "output"),
)
"""The pairs that the specification's compatibility table allows."""

EXCLUSIVE: tuple[tuple[Kind, Kind], ...] = (
    ("feature", "feature"),
    *(("joint", kind) for kind in ("output", "feature", "contrast", "heads", "bands")),
    ("heads", "heads"),
    *(("quantised", kind) for kind in ("quantised", "joint", "feature", "data", "heads", "bands", "contrast")),
)


def test_what_goes_together_and_what_is_refused_by_name_with_the_reason() -> None:
    for first, second in ALLOWED:
        assert refusals([StubMethod("a", first), StubMethod("b", second)]) == []
    for first, second in EXCLUSIVE:
        (line,) = refusals([StubMethod("left", first), StubMethod("right", second)])
        assert line.startswith("left and right do not go together: ") and len(line) > 60


def test_the_pixel_loss_goes_with_everything_and_only_known_kinds_are_in_the_table() -> None:
    kinds = get_args(Kind)
    assert all(not refusals([StubMethod("a", "pixel"), StubMethod("b", kind)]) for kind in kinds)
    assert {kind for pair in REFUSED for kind in pair} <= set(kinds)
    three = [StubMethod("a", "joint"), StubMethod("b", "output"), StubMethod("c", "feature")]
    assert len(refusals(three)) == sum(frozenset({a.kind, b.kind}) in REFUSED for a, b in combinations(three, 2))


def test_shared_terms_must_agree_or_be_given_a_weight() -> None:
    methods = [StubMethod("a", "pixel"), StubMethod("b", "data", weights={"pixel": 5.0, "zoom": 1.0})]
    (line,) = disagreements(methods, {})
    assert "pixel is weighed 1 in a and weighed 5 in b" in line and line.endswith("weights.pixel=5")
    assert disagreements(methods, {"pixel": 5.0}) == []
    methods = [
        StubMethod("a", "pixel", weights={"far": Calibrated(0.2)}),
        StubMethod("b", "data", weights={"far": 3.0}),
    ]
    (line,) = disagreements(methods, {})
    assert "calibrated to 0.2 of pixel in a and weighed 3 in b" in line and line.endswith("weights.far=3")


def test_weights_that_have_no_sum_are_not_blended() -> None:
    shares = [StubMethod("a", "pixel", weights={"far": Calibrated(0.2)}), StubMethod("b", "data", weights={"far": 3.0})]
    (line,) = disagreements(shares, {}, 0.5)
    assert "far cannot be added" in line and disagreements(shares, {"far": 1.0}, 0.5) == []
    both = [StubMethod(name, "pixel", weights={"far": Calibrated(0.2)}) for name in ("a", "b")]
    assert term_weights(both, {}, {"a": 0.5}) == {"far": Calibrated(0.1 + 0.2)}


@pytest.mark.parametrize(
    ("setting", "expected"),
    [("blend=lots", "a number above 0"), ("blend.scratch=-1", "above 0"), ("blend.csd=1", "no such")],
)
def test_a_wrong_blend_is_one_line(setting: str, expected: str) -> None:
    with pytest.raises(YamlError, match=expected) as error:
        load_preset("scratch", [setting])
    assert len(error.value.problems) == 1


WHOLE, HALF = EDSRSpec(scale=2, width=8, depth=3), EDSRSpec(scale=2, width=4, depth=3)
"""A teacher and a slice of it, with taps by thirds, suitable for every method."""


@pytest.mark.ci
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_terms_that_methods_share_are_one_quantity_and_their_order_is_none(row: Row) -> None:
    """Each form of a method is combined with the simplest one that has the pixel loss, or the teacher's image."""
    for name, options in (("scratch", {}), ("logits", {}), ("logits", {"gate": "hard"})):
        one, other = make_method(row.of, {**row.options, **row.settled}), make_method(name, options)
        if one.name == other.name or refusals([one, other]):
            continue
        shared = one.weights.keys() & other.weights.keys()
        totals = [loss_of(pair, dict.fromkeys(shared, 0.5)) for pair in ((one, other), (other, one))]
        assert totals[0] == pytest.approx(totals[1], rel=1e-5), name


def test_a_blend_is_the_sum_of_the_methods_losses_each_times_its_factor() -> None:
    methods = make_method("dukd", {}), make_method("csd-lite", {"phi": "teacher", "lam": 0.5})
    methods = bind_phi(methods, PhiSource("teacher", "the teacher's first blocks"))
    alone = [loss_of([method], {}) for method in methods]
    assert alone[0] != pytest.approx(alone[1], rel=0.1)
    factors = {"dukd": 0.25, "csd-lite": 0.75}
    assert loss_of(methods, {}, factors) == pytest.approx(0.25 * alone[0] + 0.75 * alone[1], rel=1e-5)
    assert loss_of(methods, {}, 0.5) == pytest.approx(sum(alone) / 2, rel=1e-5)


def loss_of(methods: Sequence[Method], weights: Mapping[str, float], blend: Blend | None = None) -> float:
    """Return the loss of the first step of a recipe of these methods; shared terms that differ are refused."""
    teacher = build(WHOLE, seed=1).eval().requires_grad_(False)
    student, quantisation = cut_student(teacher, HALF), quantisation_of(methods)
    if quantisation is not None:
        student = quantise(student, quantisation)
    methods = fit_methods(methods, teacher, student)
    preset = load_preset("scratch").with_steps(1).model_copy(update={"weights": weights, "blend": blend})
    stage, recorder = preset.stage(methods), Recorder()
    state = State.fresh(student, teacher, stage)
    Trainer([stage], state, Waves(2, range(2)), teacher, recorder, seed=3).run()
    return recorder.losses[0]["loss"]


@dataclass(frozen=True)
class Darker(StubMethod):
    """A method whose term `pixel` is another quantity."""

    def terms(self, step: Step) -> dict[str, torch.Tensor]:
        return {"pixel": (step.student().sr - 0.9 * step.hr).abs().mean()}


def test_two_quantities_of_one_name_are_refused_before_the_first_step() -> None:
    for methods in ([Scratch(), Darker("darker", "data")], [Darker("darker", "data"), Scratch()]):
        one = stage(methods, steps=2, rate=1e-3)
        state = State.fresh(network(0), None, one)
        with pytest.raises(SrkdError, match=r"pixel of (scratch|darker)"):
            Trainer([one], state, smooth_patch(), None, Recorder(), seed=0).run()
        assert state.done == 0


@pytest.mark.parametrize("order", [("csd-lite", "clsd"), ("clsd", "csd-lite")])
def test_two_contrasts_of_different_images_are_both_computed(order: tuple[str, str]) -> None:
    text = "title: t\nsource: s\nmethods:\n" + "".join(f"  - name: {name}\n" for name in order)
    preset = read_preset(text, "mine", ("phi=teacher", "clsd.lam=0.784314"))
    assert set(preset.stage(preset.build_methods()).term_weights) == {"pixel", "heads", "heads_contrast", "contrast"}


TWO = """
title: two
source: a test
methods:
  - name: {first}
  - name: {second}
weights: {weights}
"""


def test_two_methods_of_a_preset_and_their_weights_are_checked_and_the_presets_weight_wins() -> None:
    wrong = (("logits", "{}", "mine:4: methods: logits and logits"), ("scratch", "{pixl: 2}", r"weights\.pixl.*pixel"))
    for second, weights, message in wrong:
        with pytest.raises(UsageError, match=message):
            read_preset(TWO.format(first="logits", second=second, weights=weights), "mine")
    preset = read_preset(TWO.format(first="scratch", second="logits", weights="{pixel: 3, logits: 0.5}"), "mine")
    assert preset.stages(preset.build_methods())[-1].term_weights == {"pixel": 3.0, "logits": 0.5}


def test_methods_that_want_different_features_share_one_forward_a_step(tmp_path: Path) -> None:
    """This includes resumed runs, whose steps must equal those of an uninterrupted run."""
    preset = read_preset(TWO.format(first="logits", second="lfd", weights="{pixel: 1}"), "mine", ("lam=0.01",))
    one = replace(stage(list(preset.build_methods()), steps=4, rate=1e-3), weights=preset.weights)
    teacher = network(1, width=12, depth=3).requires_grad_(False)
    runs = {"student": 0, "teacher": 0}

    def counted(name: str, net: Network) -> Network:
        def count(*_: object) -> None:
            runs[name] += 1

        net.register_forward_hook(count)
        return net

    counted("teacher", teacher)
    straight = State.fresh(counted("student", network(0, depth=3)), teacher, one)
    runs.update(student=0, teacher=0)
    Trainer([one], straight, smooth_patch(), teacher, SavingRecorder(tmp_path / "state.pt", 2), seed=0).run()
    rehearsed = 2
    assert runs == {"student": 4 + rehearsed, "teacher": 4 + rehearsed}
    resumed = State.fresh(network(0, depth=3), teacher, one)
    resumed.load(tmp_path / "state.pt", [one], teacher)
    Trainer([one], resumed, smooth_patch(), teacher, Recorder(), seed=0).run()
    assert is_same(resumed, straight)
