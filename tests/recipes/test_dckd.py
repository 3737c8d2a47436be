"""DCKD: its contrast, its labels under transformations, its noisy inputs, and the earlier student that follows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from compressor.base.errors import UsageError
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import build
from compressor.training.state import State
from recipes.config.options import make_method
from recipes.methods.dckd import follow, noisy_inputs
from recipes.terms.contrast import bicubic_negatives, ratio_of, sample_distances
from recipes.terms.perceptual import LEVEL_WEIGHTS, Phi
from recipes.terms.phi import PhiSource
from recipes.terms.symmetries import Operations, apply, draw_operations, invert
from tests.support.method_runs import Curve, Pair, Waves, numbers, step_of
from tests.support.methods_table import STUDENT, TEACHER
from tests.support.tensors import close, golden

DRAW: dict[str, Any] = {"seed": 7, "step": 4, "samples": range(4)}


def dckd(**options: Any) -> Any:
    return make_method("dckd", {"phi": "teacher", **options})


def levels_of(case: dict[str, Tensor]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Return anchors, positives and negatives of each level; the negatives are K batches, concatenated."""
    count = sum(name.startswith("in_anchor") for name in case)
    anchors, positives, negatives = (
        [case[f"in_{part}_{level}"] for level in range(count)] for part in ("anchor", "positive", "negatives")
    )
    return [anchor.requires_grad_() for anchor in anchors], positives, [level.flatten(0, 1) for level in negatives]


# The contrast


@pytest.mark.parametrize(
    ("name", "weights"), [("dckd_contrast", LEVEL_WEIGHTS), ("dckd_contrast_one_negative", (0.5, 1.0))]
)
def test_contrast_of_the_official_code(name: str, weights: tuple[float, ...]) -> None:
    case = golden(name)
    anchors, positives, negatives = levels_of(case)
    distances = sample_distances(anchors, positives, negatives, own=True)
    for level, (near, far) in enumerate(distances.mean(0)):
        assert near.item() == pytest.approx(case[f"out_d_ap_{level}"].item(), rel=1e-5)
        assert far.item() == pytest.approx(case[f"out_d_an_{level}"].item(), rel=1e-5)
    # The ratio of one level has the weight 1.
    ratios = [weight * ratio_of(distances[:, level, None]) for level, weight in enumerate(weights)]
    loss = 0.1 * torch.stack(ratios).sum()
    loss.backward()
    assert loss.item() == pytest.approx(case["out_loss"].item(), rel=1e-5)
    for level, anchor in enumerate(anchors):
        assert anchor.grad is not None and close(anchor.grad, case[f"out_grad_anchor_{level}"])
    if weights == LEVEL_WEIGHTS:
        assert 0.1 * ratio_of(distances).item() == pytest.approx(case["out_loss"].item(), rel=1e-5)


def test_twice_the_negatives_halve_the_contrast_and_each_sample_has_its_own() -> None:
    anchors, positives, negatives = levels_of(golden("dckd_contrast"))
    once = sample_distances(anchors, positives, negatives, own=True)
    twice = sample_distances(anchors, positives, [torch.cat([level, level]) for level in negatives], own=True)
    assert ratio_of(twice).item() == pytest.approx(ratio_of(once).item() / 2, rel=1e-5)
    others = [level.clone() for level in negatives]
    for level in others:
        level[1::2] += 1.0  # those of the second of two samples
    changed = sample_distances(anchors, positives, others, own=True)
    assert torch.equal(changed[0], once[0]) and not torch.equal(changed[1], once[1])


def test_the_sum_is_that_of_the_formula() -> None:
    """The terms are computed again, with an earlier student that differs from the student."""
    pair = Pair.build(dckd(noisy=2), STUDENT, TEACHER)
    method, student, teacher, batch = pair.method, pair.student, pair.teacher, Waves(2).at(4)
    step = step_of(method, student, teacher, batch, number=4, seed=7, phi_of=teacher)
    earlier = build(STUDENT, seed=5)
    step.modules.get_submodule("dckd.history").load_state_dict(earlier.state_dict())
    terms, phi = method.terms(step), cast(Phi, step.helpers["dckd"]["phi"])
    with torch.no_grad():
        sr, label = student(batch.lr), teacher(batch.lr)
        operations = draw_operations(0.5, stream="dckd-labels", **DRAW)
        inputs = [batch.lr, *noisy_inputs(batch.lr, 2, (1.0, 30.0), 0.5, **DRAW).chunk(2)]
        away = [phi(earlier(lr)) for lr in inputs]
        contrast = torch.zeros(())
        for level, (a, p) in enumerate(zip(phi(sr), phi(label), strict=True)):
            far = torch.stack([(a - n[level]).abs() for n in away]).sum(0).mean()
            contrast += LEVEL_WEIGHTS[level - phi.levels] * (a - p).abs().mean() / (far + 1e-7)
        expected = {
            "pixel": F.l1_loss(sr, batch.hr),
            "logits": F.l1_loss(sr, label),
            "consistency": F.l1_loss(sr, invert(teacher(apply(batch.lr, operations)), operations)),
            "contrast": contrast,
        }
    assert terms.keys() == expected.keys() == method.weights.keys()
    for name, value in expected.items():
        assert terms[name].item() == pytest.approx(value.item(), rel=1e-5), name
    near, far = step.observed["contrast_near"], step.observed["contrast_far"]
    assert 0 < near.item() / far.item() < terms["contrast"].item()


def test_without_history_bicubic_images_of_the_same_inputs_are_the_negatives() -> None:
    pair, batch = Pair.build(dckd(history=False, noisy=1), STUDENT, TEACHER), Waves(2).at(4)
    step = step_of(pair.method, pair.student, pair.teacher, batch, number=4, seed=7, phi_of=pair.teacher)
    assert not list(step.modules.parameters())
    inputs = torch.cat([batch.lr, noisy_inputs(batch.lr, 1, (1.0, 30.0), 0.5, **DRAW)])
    phi = step.helpers["dckd"]["phi"]
    with torch.no_grad():
        anchors, positives = phi(pair.student(batch.lr)), phi(pair.teacher(batch.lr))
        expected = ratio_of(sample_distances(anchors, positives, phi(bicubic_negatives(inputs, 2)), own=True))
    assert pair.method.terms(step)["contrast"].item() == pytest.approx(expected.item(), rel=1e-5)


# λ


def test_lambda_counts_the_same_with_fewer_negatives_and_levels() -> None:
    student, teacher = build(STUDENT, seed=0), build(TEACHER, seed=1)
    vgg = replace(dckd(phi="auto"), phi_source=PhiSource("vgg19", "VGG-19"))
    assert vgg.fit(teacher, student).lam == pytest.approx(0.1)
    assert replace(vgg, noisy=1).fit(teacher, student).lam == pytest.approx(0.1 * 2 / 5)
    assert dckd().fit(teacher, student).lam == pytest.approx(0.1 * 1.46875 / 1.25), "a teacher of two blocks"
    assert dckd(lam=0.3, noisy=1).fit(teacher, student).lam == 0.3
    deep = build(EDSRSpec(scale=2, width=8, depth=7), seed=1)
    assert dckd().fit(deep, student).lam == pytest.approx(0.1)


def test_every_second_step_has_a_contrast_of_twice_the_weight() -> None:
    pair = Pair.build(dckd(every=2, lam=0.2), STUDENT, TEACHER, steps=4)
    assert pair.method.weights["contrast"] == 0.4
    assert ["raw/contrast" in step for step in pair.train(pair.fresh())] == [False, True, False, True]


def test_without_its_own_terms_it_is_the_teachers_image() -> None:
    """All weights of its own 0: the losses and the weights of `logits`, to the bit."""
    plain = Pair.build(make_method("logits", {}), STUDENT, TEACHER)
    bare = Pair.build(dckd(lam=0, consistency=0), STUDENT, TEACHER)
    states = [pair.fresh() for pair in (plain, bare)]
    assert plain.train(states[0]) == bare.train(states[1])
    assert not list(states[1].modules.parameters())
    for name, value in states[0].student.state_dict().items():
        assert torch.equal(value, states[1].student.state_dict()[name])


# Labels under transformations


def test_transformations_of_the_official_code() -> None:
    case = golden("dckd_label_consistency")
    chosen = [torch.zeros(12, dtype=torch.bool).index_fill(0, case[f"in_idx_{letter}"], True) for letter in "ihvt"]
    operations = Operations(*chosen)
    changed = apply(case["in_x"], operations)
    assert torch.equal(changed, case["out_forward"])
    undone = invert(F.interpolate(changed, scale_factor=2.0), operations)
    assert close(undone, case["out_reverted_of_nearest_x2"], 1e-6)


def test_the_student_sees_the_patch_and_the_teacher_the_changed_one_too() -> None:
    pair, seen = Pair.build(dckd(lam=0), STUDENT, TEACHER), {"student": list[Tensor](), "teacher": list[Tensor]()}
    pair.student.register_forward_pre_hook(lambda _, inputs: seen["student"].append(inputs[0]))
    pair.teacher.register_forward_pre_hook(lambda _, inputs: seen["teacher"].append(inputs[0]))
    batch = Waves(2, range(8)).at(0)
    pair.method.terms(step_of(pair.method, pair.student, pair.teacher, batch, phi_of=pair.teacher))
    assert len(seen["student"]) == len(seen["teacher"]) == 1, "both of the teacher's inputs in one pass"
    assert torch.equal(seen["student"][0], batch.lr)
    plain, changed = seen["teacher"][0].chunk(2)
    assert torch.equal(plain, batch.lr)
    same = [torch.equal(a, b) for a, b in zip(plain, changed, strict=True)]
    assert sum(same) < 4, "one of sixteen is the identity"


# Noisy inputs


def test_noise_has_the_deviations_and_colours_of_the_formula() -> None:
    flat = torch.full((64, 3, 24, 24), 0.5)
    fields = (noisy_inputs(flat, 2, (1.0, 30.0), 0.5, seed=0, step=0, samples=range(64)) - 0.5) * 255
    deviations = fields.std((1, 2, 3))
    assert 0.5 < deviations.min() < 4 and 26 < deviations.max() < 32
    assert abs(deviations.mean() - 15.5) < 2.5, "uniform from 1 to 30"
    assert 0.35 < (fields[:, 0] == fields[:, 1]).flatten(1).all(1).float().mean() < 0.65
    units = (fields / deviations[:, None, None, None])[:, 0].flatten(1)
    similar = units @ units.T / units.shape[1] - torch.eye(128)
    assert similar.abs().max() < 0.25, "a field of its own for each sample and copy, grey ones, too"
    images = noisy_inputs(torch.rand(4, 3, 8, 8), 1, (255.0, 255.0), 0.5, **DRAW)
    assert images.min() == 0 and images.max() == 1


def test_noise_depends_on_seed_step_sample_and_copy_alone() -> None:
    lr = torch.full((4, 3, 6, 6), 0.5)
    whole = noisy_inputs(lr, 3, (1.0, 30.0), 0.5, **DRAW)
    second = noisy_inputs(lr[2:], 3, (1.0, 30.0), 0.5, **{**DRAW, "samples": range(2, 4)})
    assert torch.equal(second, torch.cat([part[2:] for part in whole.chunk(3)])), "as another process draws it"
    assert torch.equal(noisy_inputs(lr, 1, (1.0, 30.0), 0.5, **DRAW), whole[:4]), "whatever K is"
    for other in ({"seed": 8}, {"step": 5}):
        assert not torch.equal(noisy_inputs(lr, 3, (1.0, 30.0), 0.5, **{**DRAW, **other}), whole)


# The earlier student


class Weights(torch.nn.Module):
    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = torch.nn.Parameter(value.clone())


def test_history_of_the_official_code() -> None:
    case = golden("dckd_history")
    history = Weights(case["in_history_start"])
    for number, averaged in enumerate(case["in_ema_at_updates"], start=1):
        follow(history, Weights(averaged), 0.1)
        assert close(history.value.detach(), case[f"out_history_{number}"], 1e-6), number


def test_it_follows_the_averaged_student_at_the_end_of_each_interval(tmp_path: Path) -> None:
    """A step's history is that of the formula, from the averages of the run; it begins as the student."""
    pair, path = Pair.build(dckd(intervals=[2], decay=0.25), STUDENT, TEACHER, steps=5), tmp_path / "state.pt"
    state = pair.fresh()
    start = {name: value.clone() for name, value in state.student.state_dict().items()}
    averages, histories = [], []

    class Watching(Curve):
        def after_step(self, done: int, state: State) -> None:
            super().after_step(done, state)
            averages.append({name: value.clone() for name, value in state.ema.network.named_parameters()})
            history = state.modules.get_submodule("dckd.history")
            histories.append({name: value.clone() for name, value in history.named_parameters()})

    pair.train(state, curve=Watching(path, at=3))
    expected = {name: start[name] for name in averages[0]}
    for done, (average, history) in enumerate(zip(averages, histories, strict=True), start=1):
        if done % 2 == 0:
            expected = {name: 0.25 * expected[name] + 0.75 * average[name] for name in expected}
        for name, value in expected.items():
            assert torch.allclose(history[name], value, atol=1e-7), (done, name)
    # The state was saved in the middle of an interval, where the history cannot be found from the average.
    same = Pair.build(dckd(intervals=[2], decay=0.25), STUDENT, TEACHER, steps=5)
    again = same.fresh()
    again.load(path, same.stages, same.teacher)
    same.train(again)
    actual, wanted = numbers(again), numbers(state)
    assert actual.keys() == wanted.keys() and all(torch.equal(actual[name], wanted[name]) for name in wanted)


def test_the_intervals_are_the_published_ones_and_the_last_one_stays() -> None:
    method, student, averaged = dckd(), build(STUDENT, seed=0), build(STUDENT, seed=1)
    for done, moves in (
        *((1000, True), (1500, False), (100_000, True), (101_000, False), (102_000, True), (200_000, True)),
        *((202_000, False), (201_000, True), (301_000, False), (399_000, True), (400_000, False), (900_000, True)),
    ):
        modules = method.modules(None, student)
        method.follow_average(modules, averaged, done)
        pairs = zip(modules["history"].parameters(), student.parameters(), strict=True)
        assert any(not torch.equal(one, other) for one, other in pairs) == moves, done


def test_deviations_in_the_wrong_order_are_refused_in_one_line() -> None:
    with pytest.raises(UsageError, match=r"sigma=\[30, 1\]"):
        dckd(sigma=[30, 1])
