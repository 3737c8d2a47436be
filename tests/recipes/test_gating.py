"""FACD's gate on other losses: the patches that count, what is not gated, and incompatible methods."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from compressor.base.errors import SrkdError, UsageError
from compressor.data.batches import Batch
from compressor.models.networks.registry import build
from compressor.training.step import Step
from recipes.composition import refusals
from recipes.config.reading import load_preset, read_preset
from recipes.methods.dckd import DCKD
from recipes.methods.dukd import DUKD
from recipes.methods.facd import FACD
from recipes.methods.fakd import FAKD
from recipes.methods.lfd import LFD
from recipes.methods.logits import Logits
from recipes.methods.perceptual import Perceptual
from recipes.terms.features import FeatureMethod
from recipes.terms.gating import HORIZON, RunningSpread
from tests.support.method_runs import Pair, Waves, step_of
from tests.support.methods_table import STUDENT, TEACHER

GATED = {
    "logits": Logits(gate="hard"),
    "fakd": FAKD(gate="hard"),
    "lfd": LFD(gate="hard", kappa=1.0, lam=0.5),
    "facd": FACD(gate="hard", lam=3.0),
}
named = pytest.mark.parametrize("name", GATED)


def of_labels(method: Any, better: str) -> Step:
    """Return a step whose label of each patch is the image of the better network, S or T, as listed in `better`."""
    student, teacher = build(STUDENT, seed=0).eval(), build(TEACHER, seed=1).eval()
    lr = Waves(2, range(len(better))).at(0).lr
    with torch.no_grad():
        images = {"S": student(lr), "T": teacher(lr)}
    hr = torch.stack([images[who][at] for at, who in enumerate(better)])
    return step_of(method, student, teacher, Batch(lr, hr))


@named
def test_a_teacher_that_is_worse_everywhere_teaches_nothing(name: str) -> None:
    step = of_labels(GATED[name], "SSSS")
    terms = GATED[name].terms(step)
    assert step.observed["gate_open"].item() == 0
    assert {term: value.item() for term, value in terms.items() if term != "pixel"} == dict.fromkeys(
        terms.keys() - {"pixel"}, 0.0
    )
    assert terms["pixel"].item() == F.l1_loss(step.student().sr, step.hr).item()


@named
def test_a_teacher_that_is_better_everywhere_teaches_as_without_a_gate(name: str) -> None:
    gated, plain = GATED[name], replace(GATED[name], gate="off")
    gated_terms, plain_terms = gated.terms(of_labels(gated, "TTTT")), plain.terms(of_labels(plain, "TTTT"))
    assert gated_terms.keys() == {"gated_logits" if term == "logits" else term for term in plain_terms}
    for term, value in plain_terms.items():
        assert gated_terms["gated_logits" if term == "logits" else term].item() == pytest.approx(value.item(), rel=1e-5)
    assert gated_terms.keys() == gated.weights.keys() and plain_terms.keys() == plain.weights.keys()


@named
def test_patches_count_one_by_one(name: str) -> None:
    step = of_labels(GATED[name], "STSS")
    terms = GATED[name].terms(step)
    assert step.observed["gate_open"].item() == 0.25
    s, t = step.student().sr[1], step.teacher().sr[1]
    assert terms["gated_logits"].item() == pytest.approx((s - t).abs().mean().item() / 4, rel=1e-5)


def test_the_soft_gate_remembers_and_weighs_every_patch() -> None:
    method = Logits(gate="soft")
    step = of_labels(method, "STSS")
    method.terms(step)
    errors = [(image - step.hr).abs().mean((1, 2, 3)) for image in (step.student().sr.detach(), step.teacher().sr)]
    gap = errors[0] - errors[1]
    expected = torch.sigmoid(gap / gap.std(correction=0)).mean()
    assert step.observed["gate_open"].item() == pytest.approx(expected.item(), rel=1e-4)
    moments = step.modules["logits"].state_dict()["spread.moments"]
    assert moments.eq(0).all(), "until the step has counted"
    step.finish_update()
    assert moments[0] == 1 and moments[2] > 0


@pytest.mark.parametrize(("make", "term"), [(LFD, "matching"), (FACD, "patch_contrast")])
def test_weights_are_calibrated_before_the_gate(make: type[LFD] | type[FACD], term: str) -> None:
    weights = []
    for gate in ("off", "hard", "soft"):
        pair = Pair.build(make(gate=gate), STUDENT, TEACHER, steps=1)  # type: ignore[arg-type]
        state = pair.fresh()
        losses = pair.train(state)[0]
        weights.append(state.calibration.weights[term])
        if gate != "off":
            ungated = losses[f"seen/ungated_{term.removeprefix('patch_')}"]
            assert weights[-1] == pytest.approx(0.2 * losses["raw/pixel"] / ungated, rel=1e-5)
    assert weights[0] == pytest.approx(weights[1]) == pytest.approx(weights[2])


def test_the_running_spread_is_that_of_everything_seen() -> None:
    running, values = RunningSpread(), torch.randn(7, 5, generator=torch.Generator().manual_seed(0)) + 2
    for row in values:
        running.moments.copy_(running.moments_with(row))
    assert running.deviation(running.moments).item() == pytest.approx(values.std(correction=0).item(), rel=1e-4)
    for _ in range(8 * HORIZON):
        running.moments.copy_(running.moments_with(torch.tensor([-1.0, 3.0])))
    assert running.deviation(running.moments).item() == pytest.approx(2.0, rel=1e-2)


def test_two_gates_of_one_run_must_be_the_same() -> None:
    text = "title: t\nsource: s\nweights: {{pixel: 1, gated_logits: 1}}\nmethods:\n  - {}\n  - {}\n"
    soft = "{name: logits, options: {gate: soft}}"
    with pytest.raises(UsageError, match=r"logits and facd .*soft and hard"):
        read_preset(text.format(soft, "{name: facd}"), "mine")
    both = read_preset(text.format(soft, "{name: facd}"), "mine", ("gate=soft",))
    assert {getattr(method, "gate", None) for method in both.build_methods()} == {"soft"}
    assert read_preset(text.format(soft, "{name: fakd, options: {gate: soft}}"), "mine")


WHOLE_AND_GATED = "whole in {0}.* by the patch in {1}"
WHOLE_AND_ROUNDED = ".* and rounded in {1}: give the other no such term"


@pytest.mark.parametrize(
    ("first", "second", "how", "way_out"),
    [
        (Logits(), FACD(), WHOLE_AND_GATED, (Logits(), FACD(gate="off"))),
        (Logits(), FACD(), WHOLE_AND_GATED, (Logits(), FACD(kappa=0))),
        (DUKD(), FACD(), WHOLE_AND_GATED, (DUKD(logits=False), FACD())),
        (FAKD(), Logits(gate="hard"), WHOLE_AND_GATED, (FAKD(gate="hard"), Logits(gate="hard"))),
        (FAKD(), Logits(gate="hard"), WHOLE_AND_GATED, (FAKD(alpha=0), Logits(gate="hard"))),
        (LFD(kappa=1), Logits(gate="soft"), WHOLE_AND_GATED, (LFD(), Logits(gate="soft"))),
        (DUKD(), Perceptual(), WHOLE_AND_ROUNDED, (DUKD(logits=False), Perceptual())),
        (FAKD(), Perceptual(), WHOLE_AND_ROUNDED, (FAKD(alpha=0), Perceptual())),
        (DCKD(), Perceptual(), WHOLE_AND_ROUNDED, (DCKD(kappa=0), Perceptual())),
        (FACD(), Perceptual(), WHOLE_AND_ROUNDED, (FACD(kappa=0), Perceptual())),
    ],
)
def test_the_teachers_image_counts_once(first: Any, second: Any, how: str, way_out: tuple[Any, Any]) -> None:
    for pair in ((first, second), (second, first)):
        (line,) = refusals(pair)
        assert re.search("would count twice, " + how.format(first.name, second.name), line)
    assert refusals(way_out) == [] == refusals(way_out[::-1])


class Deaf(Logits):
    def terms(self, step: Step) -> dict[str, torch.Tensor]:
        return {"pixel": F.l1_loss(step.student().sr, step.hr)}


def test_a_gate_that_the_terms_do_not_read_is_refused() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'gate'"):
        FeatureMethod(gate="hard")  # type: ignore[call-arg]
    pair = Pair.build(Deaf(gate="hard"), STUDENT, TEACHER, steps=1)
    with pytest.raises(SrkdError, match="logits has the gate hard and its terms do not read it: set gate=off"):
        pair.train(pair.fresh())


@pytest.mark.parametrize("recipe", ["csd-lite", "dukd"])
def test_what_has_no_value_for_each_patch_has_no_gate(recipe: str) -> None:
    with pytest.raises(UsageError, match=f"{recipe}.gate=hard"):
        load_preset(recipe, (f"{recipe}.gate=hard",))
    with pytest.raises(UsageError, match=f"gate is an option of facd, fakd, lfd, logits, not of {recipe}$"):
        load_preset(recipe, ("gate=hard",))
