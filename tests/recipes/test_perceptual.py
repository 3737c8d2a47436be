"""The perceptual student: its discriminator, its two stages, and the guard of the second."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from compressor.base.errors import SrkdError
from compressor.models.networks.base import Network
from compressor.models.networks.registry import build
from compressor.training.calibration import scaled_weight
from compressor.training.guard import require_paths
from compressor.training.state import State
from compressor.training.step import Step
from recipes.config.options import make_method
from recipes.config.reading import load_preset
from recipes.methods.perceptual import (
    DETAIL_GAIN,
    Game,
    Perceptual,
    fine_detail,
    pixel_terms,
    target_of,
    wavelet_l1,
)
from recipes.terms.discriminator import LOSSES, LossName, SpectralConv, UNetDiscriminator, accuracy
from recipes.terms.looks_guard import CROPS, Looks, LooksGuard
from recipes.terms.texture import (
    block_agreement,
    block_deviations,
    contrast_distance,
    restlessness,
    spectrum_distance,
)
from tests.support.method_runs import Curve, Pair, Waves, numbers, step_of
from tests.support.methods_table import STUDENT, TEACHER
from tests.support.tensors import golden, noise


def perceptual(**options: Any) -> Perceptual:
    method = make_method("perceptual", options)
    assert isinstance(method, Perceptual)
    return method


def game(*, began: int = 10, steps: int = 100, **options: Any) -> Game:
    return Game(perceptual(width=4, **options), began, steps)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """New networks have the same weights in every run of a test."""
    torch.manual_seed(0)


# The discriminator


def official() -> tuple[UNetDiscriminator, dict[str, Tensor]]:
    case = golden("realesrgan_unet_discriminator")
    opponent = UNetDiscriminator(4)
    opponent.load_state_dict({name[9:]: value for name, value in case.items() if name.startswith("in_state.")})
    return opponent, case


def test_logits_of_the_official_code() -> None:
    opponent, case = official()
    evaluated = case["out_logits_real_eval"]  # with u and v that no pass has moved
    assert torch.allclose(opponent(case["in_real"]), evaluated, rtol=1e-4, atol=1e-5 * float(evaluated.abs().max()))
    for number in (1, 2):
        logits = opponent(case["in_real"], learns=True)
        assert torch.allclose(logits, case[f"out_logits_real_train_{number}"], atol=1e-6)
    assert torch.allclose(opponent.conv1.weight_u, case["out_u_conv1_after_2_train_calls"], atol=1e-6)


def test_losses_and_gradient_of_the_official_code() -> None:
    opponent, case = official()
    for _ in range(2):
        opponent(case["in_real"], learns=True)
    real, fake = opponent(case["in_real"]), opponent(case["in_fake"].requires_grad_())
    (gradient,) = torch.autograd.grad(0.1 * LOSSES["bce"].of_student(real, fake), case["in_fake"], retain_graph=True)
    official_gradient = case["out_grad_fake_of_loss_g"]
    assert torch.allclose(gradient, official_gradient, atol=2e-2 * float(official_gradient.abs().max()))
    suffixes: dict[LossName, str] = {"bce": "", "hinge": "_hinge"}
    for name, suffix in suffixes.items():
        losses = LOSSES[name]
        of_student = 0.1 * losses.of_student(real, fake)
        official_student = case[f"out_loss_g{suffix or '_vanilla'}"].item()
        assert of_student.item() == pytest.approx(official_student, rel=2e-3), name
        of_opponent = case[f"out_loss_d_real{suffix}"] + case[f"out_loss_d_fake{suffix}"]
        assert losses.of_opponent(real, fake).item() == pytest.approx(of_opponent.item(), rel=2e-3), name


def test_sizes_of_the_published_network() -> None:
    assert sum(parameter.numel() for parameter in UNetDiscriminator(64).parameters()) == 4_376_897


def test_a_weight_has_the_largest_singular_value_one() -> None:
    convolution = SpectralConv(3, 8, 3)
    for _ in range(300):
        _ = convolution.matrix(learns=True)
    weight = convolution.matrix(learns=False)
    assert torch.linalg.matrix_norm(weight.flatten(1), ord=2).item() == pytest.approx(1.0, abs=1e-3)


def test_a_pass_that_does_not_learn_leaves_it_alone() -> None:
    opponent, images = UNetDiscriminator(4), noise(2, 3, 21, 18).requires_grad_()
    before = {name: value.clone() for name, value in opponent.state_dict().items()}
    logits = opponent(images)
    torch.autograd.backward(logits.sum())
    assert logits.shape == (2, 1, 21, 18) and images.grad is not None and images.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in opponent.parameters())
    assert all(torch.equal(value, before[name]) for name, value in opponent.state_dict().items())
    torch.autograd.backward(opponent(images.detach(), learns=True).sum())
    assert all(parameter.grad is not None for parameter in opponent.parameters())
    assert not torch.equal(opponent.conv1.weight_u, before["conv1.weight_u"])


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_each_loss_pulls_to_its_own_side(name: Any) -> None:
    """A student's loss falls as its image looks more real, the opponent's as it tells the two apart."""
    real, fake = torch.full((1, 1, 2, 2), 0.5, requires_grad=True), torch.full((1, 1, 2, 2), -0.5, requires_grad=True)
    (of_fake,) = torch.autograd.grad(LOSSES[name].of_student(real.detach(), fake), fake)
    assert (of_fake < 0).all()
    of_real, of_fake = torch.autograd.grad(LOSSES[name].of_opponent(real, fake), (real, fake))
    assert (of_fake > 0).all() and (of_real < 0).all()


def test_it_learns_to_tell_a_blurred_image_from_its_original() -> None:
    torch.manual_seed(0)
    opponent, sharp = UNetDiscriminator(4), noise(8, 3, 32, 32).mul(0.1).add(0.5)
    blurred = F.avg_pool2d(sharp, 3, 1, 1)
    optimiser = torch.optim.Adam(opponent.parameters(), lr=2e-3)
    for _ in range(40):
        real, fake = opponent(fine_detail(torch.cat([sharp, blurred])), learns=True).chunk(2)
        loss = LOSSES["bce"].of_opponent(real, fake)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
    assert accuracy(opponent(fine_detail(sharp)), opponent(fine_detail(blurred))) > 0.9


# The stages


def test_the_run_is_divided_and_the_last_part_has_its_own_rates() -> None:
    pair = Pair.build(perceptual(width=4), STUDENT, TEACHER, settings=("schedule.optimiser=soap",), steps=100)
    main, last = pair.stages
    assert [stage.schedule.steps for stage in pair.stages] == [60, 40]
    assert (main.optimiser.name, last.optimiser.name) == ("soap", "soap") and last.is_later
    (method,) = last.methods
    assert isinstance(method, Game) and (method.began, method.steps) == (60, 40)
    state = pair.fresh()
    state.enter(last, pair.teacher)
    rates = [group["rate_ratio"] * last.schedule.rate for group in state.optimiser.param_groups]
    assert rates == pytest.approx([method.of.last_rate, method.of.opponent_rate])
    opponent = {id(parameter) for parameter in state.modules.get_submodule("perceptual-looks.opponent").parameters()}
    assert {id(parameter) for parameter in state.optimiser.param_groups[1]["params"]} == opponent


def test_a_blend_holds_in_the_last_stage_too() -> None:
    """The last stage has the factor of its method."""
    factors = {"perceptual": 0.5, "calm": 3.0}
    for blend, (own, other) in ((factors, (0.5, 3.0)), (0.25, (0.25, 0.25)), (None, (1.0, 1.0))):
        preset = load_preset("perceptual", more={"calm": {}}).with_steps(100)
        main, last = preset.model_copy(update={"blend": blend}).stages(preset.build_methods())
        assert [method.name for method in last.methods] == ["perceptual-looks", "calm"]
        game, calm = last.methods
        assert last.term_weights == {
            **{term: scaled_weight(weight, own) for term, weight in game.weights.items()},
            **{term: scaled_weight(weight, other) for term, weight in calm.weights.items()},
        }
        assert main.blend == blend


def test_without_a_discriminator_and_distances_there_is_no_last_stage() -> None:
    alone = Pair.build(perceptual(lam_phi=0.0, lam_adversarial=0.0), STUDENT, TEACHER, steps=5)
    assert [stage.schedule.steps for stage in alone.stages] == [5]
    state, other = alone.fresh(), Pair.build(perceptual(width=4), STUDENT, TEACHER, steps=5)
    alone.train(state)
    same = other.fresh()
    whole = replace(other, stages=(replace(other.stages[0], schedule=alone.stages[0].schedule),))
    whole.train(same)
    weights = state.student.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in same.student.state_dict().items())


def test_the_last_stage_begins_with_the_averaged_student() -> None:
    pair = Pair.build(perceptual(width=4), STUDENT, TEACHER, settings=("schedule.ema=0.9",), steps=10)
    state, seen = pair.fresh(), dict[int, dict[str, Tensor]]()

    class Looking(Curve):
        def after_step(self, done: int, state: State) -> None:
            seen[done] = {name: value.clone() for name, value in state.ema.network.state_dict().items()}

    first = replace(pair, stages=pair.stages[:1])
    first.train(state, curve=Looking())
    state.enter(pair.stages[1], pair.teacher)
    assert all(torch.equal(value, seen[6][name]) for name, value in state.student.state_dict().items())


def test_a_run_that_is_stopped_within_the_game_continues_with_the_same_bits(tmp_path: Path) -> None:
    """Weights, discriminator with u and v, Adam's moments, and what the guard has collected and measured."""
    path, options = tmp_path / "state.pt", {"width": 4, "last_share": 0.9}
    pair = Pair.build(perceptual(**options), STUDENT, TEACHER, steps=30)
    state = pair.fresh()
    pair.train(state, curve=Curve(path, at=17))
    same = Pair.build(perceptual(**options), STUDENT, TEACHER, steps=30)
    again = same.fresh()
    again.load(path, same.stages, same.teacher)
    assert again.stage == 1 and again.done == 17
    same.train(again)
    before, after = numbers(state), numbers(again)
    assert before.keys() == after.keys()
    assert [name for name, value in before.items() if not torch.equal(value, after[name])] == []
    guards = [cast(LooksGuard, one.modules.get_submodule("perceptual-looks.guard")) for one in (state, again)]
    assert guards[0].now == guards[1].now and guards[0].start == guards[1].start is not None
    assert torch.equal(guards[0].lr, guards[1].lr) and len(guards[0].lr) >= 16


def play(method: Game, *, number: int, shift: float = 0.0) -> tuple[Step, dict[str, Tensor]]:
    """Return a step of the game whose guard has its crops, and its terms."""
    student, teacher = build(STUDENT, seed=0), build(TEACHER, seed=1).eval().requires_grad_(False)
    step = step_of(method, student, teacher, Waves(2).at(number), number=number, phi_of=teacher)
    guard = cast(LooksGuard, step.modules.get_submodule("perceptual-looks.guard"))
    guard.collect(step.lr.repeat(CROPS, 1, 1, 1), target_of(step).repeat(CROPS, 1, 1, 1))
    return step, method.terms(step)


def test_student_and_discriminator_learn_from_their_own_terms_alone() -> None:
    method = game()
    step, terms = play(method, number=60)
    opponent = step.modules.get_submodule("perceptual-looks.opponent")
    require_paths(terms, step.student_network, method.opponent_terms)
    learnt = list(opponent.parameters())
    for name, term in terms.items():
        gradients = torch.autograd.grad(term, learnt, retain_graph=True, allow_unused=True)
        assert all((gradient is not None) == (name == "discriminator") for gradient in gradients), name
    with pytest.raises(SrkdError, match="discriminator has no gradient path"):
        require_paths(terms, step.student_network)
    with pytest.raises(SrkdError, match="adversarial trains the student's opponent"):
        require_paths(terms, step.student_network, ("discriminator", "adversarial"))


def test_the_discriminator_first_learns_alone_and_then_its_weight_rises() -> None:
    method = game(steps=100)  # 5 steps alone, then 10 of rising
    shares = [float(play(method, number=number)[0].observed["adversarial_weight"]) for number in (10, 15, 20, 25, 90)]
    assert shares == pytest.approx([0, 0, 0.005, 0.01, 0.01])
    assert "adversarial" not in play(method, number=15)[1] and "adversarial" in play(method, number=16)[1]


def test_patches_of_the_guard_are_not_shown_to_the_discriminator() -> None:
    student, teacher = build(STUDENT, seed=0), build(TEACHER, seed=1).eval().requires_grad_(False)
    method = game()
    step = step_of(method, student, teacher, Waves(2).at(10), number=10, phi_of=teacher)
    assert set(method.terms(step)) == {
        *("rounded_logits", "gradients", "spectrum", "contrast", "flat", "phi"),
    }
    guard = cast(LooksGuard, step.modules.get_submodule("perceptual-looks.guard"))
    assert not len(guard.lr)
    step.finish_update()
    assert torch.equal(guard.lr, step.lr) and torch.equal(guard.target, target_of(step))


def test_the_label_is_the_teachers_image_as_a_file_holds_it() -> None:
    step, _ = play(game(), number=60)
    target = target_of(step)
    assert (target * 255).round().div(255).equal(target) and target.min() >= 0 and target.max() <= 1
    assert torch.allclose(target, step.teacher().sr.clamp(0, 1), atol=0.5 / 255 + 1e-6)


def test_each_image_gets_noise_of_its_own() -> None:
    """What the discriminator sees of a student that is its teacher differs by noise of a grey level at most."""
    method, teacher = game(steps=100), build(TEACHER, seed=1).eval().requires_grad_(False)
    step = step_of(method, teacher, teacher, Waves(2).at(90), number=90, phi_of=teacher)
    guard = cast(LooksGuard, step.modules.get_submodule("perceptual-looks.guard"))
    guard.collect(step.lr.repeat(CROPS, 1, 1, 1), target_of(step).repeat(CROPS, 1, 1, 1))
    seen = list[Tensor]()
    opponent = step.modules.get_submodule("perceptual-looks.opponent")
    opponent.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    method.terms(step)
    real, fake = seen[0].chunk(2)
    # The rounding of one of them alone would be 0.25 of a level, with both noises it is 0.4.
    assert 0.33 < (real - fake).abs().mean() / (DETAIL_GAIN / 255) < 0.5


def test_terms_of_the_formula() -> None:
    difference = noise(2, 3, 8, 8)
    terms = pixel_terms(difference)
    down, right = difference[..., 1:, :] - difference[..., :-1, :], difference[..., 1:] - difference[..., :-1]
    assert terms["gradients"].item() == pytest.approx((down.abs().mean() + right.abs().mean()).item() / 2, rel=1e-6)
    energy, low = 0.0, difference
    for _ in range(2):
        a, b, c, d = (low[..., i::2, j::2] for i in (0, 1) for j in (0, 1))
        energy += sum(float(band.abs().mean()) / 2 for band in (a + b - c - d, a - b + c - d, a - b - c + d))
        low = (a + b + c + d) / 2
    assert wavelet_l1(difference).item() == pytest.approx(energy, rel=1e-5)
    assert wavelet_l1(torch.ones(1, 3, 8, 8)).item() == 0


def contrast_apart(images: Tensor, target: Tensor) -> Tensor:
    agreement = block_agreement(images, target)
    return contrast_distance(block_deviations(images), block_deviations(target), agreement)


def restless_beside(images: Tensor, target: Tensor) -> Tensor:
    return restlessness(block_deviations(images), block_deviations(target))


def as_one_process(tensor: Tensor) -> Tensor:
    return tensor


def test_texture_is_compared_where_both_agree() -> None:
    """Half the contrast is 6.02 dB and half the deviation; of other noise nothing is asked."""
    target = noise(2, 3, 64, 64).mul(0.2).add(0.5)
    for distance in (spectrum_distance(target, target, as_one_process), contrast_apart(target, target)):
        assert distance.item() == pytest.approx(0, abs=1e-5)
    other = noise(2, 3, 64, 64, seed=1).mul(0.1).add(0.5)
    assert spectrum_distance(other, target, as_one_process).item() < 0.1
    assert contrast_apart(other, target).item() < 0.05 * block_deviations(target).mean().item()
    half = (target - 0.5) / 2 + 0.5
    assert spectrum_distance(half, target, as_one_process).item() == pytest.approx(0.602, rel=0.01)
    blocks = target.unfold(2, 8, 8).unfold(3, 8, 8).var((1, 4, 5), correction=0).sqrt()
    assert contrast_apart(half, target).item() == pytest.approx(blocks.mean().item() / 2, rel=0.01)
    images = half.requires_grad_()
    for distance in (spectrum_distance(images, target, as_one_process), contrast_apart(images, target)):
        (gradient,) = torch.autograd.grad(distance, images)
        assert ((gradient * (images - 0.5)).sum((1, 2, 3)) < 0).all()  # more contrast is better


def test_the_spectrum_of_a_textured_patch_counts_more_and_processes_share_its_weight() -> None:
    target = noise(2, 3, 64, 64).mul(torch.tensor([0.02, 0.2]).view(2, 1, 1, 1))
    first, second = (torch.cat([target[:n], 0.5 * target[n : n + 1], target[n + 1 :]]) for n in (0, 1))
    apart = [spectrum_distance(images, target, as_one_process).item() for images in (first, second)]
    assert apart[1] == pytest.approx(10 * apart[0], rel=0.2)
    whole = list[Tensor]()

    def keep(values: Tensor) -> Tensor:
        whole.append(values)
        return values

    spectrum_distance(second, target, keep)
    halves = []
    for n in (0, 1):
        values = iter(whole)
        halves.append(spectrum_distance(second[n : n + 1], target[n : n + 1], lambda _: next(values)).item())  # noqa: B023
    assert sum(halves) / 2 == pytest.approx(apart[1], rel=1e-4)


def test_agreement_is_the_share_of_what_two_images_have_in_common() -> None:
    """Where an image is the other and as much noise of its own, half of its power is common to both."""
    common, own = noise(16, 3, 64, 64), noise(16, 3, 64, 64, seed=1)
    for images, share in ((common, 1.0), (common + own, 0.5), (own, 0.0), (-common, 0.0)):
        assert block_agreement(images, common).mean().item() == pytest.approx(share, abs=0.03)
    # By the ratio of both distances: the spectrum of twice the power is 3.01 dB away in each ring.
    apart = spectrum_distance(common + own, common, as_one_process).item()
    assert apart == pytest.approx(0.5 * 0.301, rel=0.1)


def test_only_areas_where_the_teacher_is_calm_must_be_calm() -> None:
    target = noise(1, 3, 32, 32).mul(0.1)
    target[..., :8] = 0.5  # a quarter
    restless, sharper = target.clone(), target.clone()
    restless[..., :8] += 0.01 * noise(1, 3, 32, 8, seed=1)
    sharper[..., 8:] *= 2
    assert restless_beside(target, target) == 0 == restless_beside(sharper, target)
    spread = restless[..., :8].unfold(2, 8, 8).var((1, 3, 4), correction=0).sqrt().mean().item()
    assert restless_beside(restless, target).item() == pytest.approx(spread, rel=0.1)
    assert restless_beside(torch.full_like(target, 0.5), target) == 0


def test_the_discriminator_sees_fine_detail_only() -> None:
    images = noise(1, 3, 32, 32)
    assert torch.allclose(fine_detail(images + 0.3), fine_detail(images), atol=1e-5)
    checkerboard = (torch.arange(32)[:, None] + torch.arange(32)).remainder(2).expand(1, 3, 32, 32).float() - 0.5
    assert fine_detail(checkerboard).abs().mean() == pytest.approx(4.0, rel=1e-3)


# The guard


class Fixed(torch.nn.Module):
    """A student that gives the same images for the crops, whatever comes in."""

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self.images, self.anchor = images, torch.nn.Parameter(torch.zeros(1))
        self.descriptor = STUDENT_NETWORK.descriptor

    def forward(self, lr: Tensor) -> Tensor:
        return self.images[: len(lr)]


STUDENT_NETWORK = build(STUDENT, seed=0)


def texture(seed: int = 0) -> Tensor:
    """16 images with a flat half and one of blurred noise."""
    images = F.avg_pool2d(noise(16, 3, 66, 66, seed=seed), 3, 1).mul(0.2).add(0.5)
    images[..., :32] = images[..., :32].mul(0.02).add(0.49)
    return (255 * images.clamp(0, 1)).round() / 255


def coin(images: Tensor) -> Tensor:
    return noise(len(images), 1, *images.shape[-2:])


def measured(student: Tensor, target: Tensor) -> Looks:
    guard = LooksGuard(STUDENT_NETWORK)
    guard.collect(F.avg_pool2d(target, 2), target)
    return guard.measure(cast(Network, Fixed(student)), coin)


def test_a_student_that_is_its_teacher_breaks_no_bound_and_cannot_be_told_apart() -> None:
    target = texture()
    looks = measured(target, target)
    assert looks.breach(looks) is None
    assert (looks.spectrum_db, looks.colour, looks.flat) == pytest.approx((0, 0, 1), abs=1e-5)
    assert looks.opponent == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda images: images + 2 / 255, "colour"),
        (lambda images: images + torch.where(torch.arange(64) % 32 < 16, 3, -3) / 255, "colour of blocks"),
        (lambda images: images + 0.06 * noise(16, 3, 64, 64, seed=1), "spectrum"),
        (lambda images: images + 0.08 * (torch.arange(64) % 2 - 0.5), "one frequency"),
        (lambda images: torch.cat([images[..., :32] + 0.01 * noise(16, 3, 64, 32), images[..., 32:]], -1), "flat"),
        (lambda images: images.roll(2, -1), "dB to the teacher"),
    ],
)
def test_each_artefact_breaks_its_bound(change: Any, word: str) -> None:
    target = texture()
    start = measured(F.avg_pool2d(F.pad(target, (1, 1, 1, 1), mode="replicate"), 3, 1), target)
    assert start.breach(start) is None  # a blurred student has yet to sharpen
    why = measured(change(target), target).breach(start)
    assert why is not None and word in why


def test_breaches_halve_the_weight_and_the_third_one_goes_back() -> None:
    target = texture()
    guard = LooksGuard(STUDENT_NETWORK)
    guard.collect(F.avg_pool2d(target, 2), target)
    averaged = build(STUDENT, seed=1)
    good, bad = (Looks(0, 0, 0, 0, psnr, 1, 0.6) for psnr in (30.0, 28.0))
    results = iter([good, bad, good, bad, bad])
    guard.measure = lambda *_: next(results)  # type: ignore[method-assign]
    said = [guard.check(build(STUDENT, seed=5) if n != 2 else averaged, coin, 10 * n, 100) for n in range(5)]
    assert [len(after.messages) for after in said] == [0, 1, 0, 1, 1] and guard.scale == 0
    assert [after.back_to is guard.good for after in said] == [False] * 4 + [True]
    assert "halved to 0.5" in said[1].messages[0] and "28.00 dB to the teacher, 30.00" in said[1].messages[0]
    assert all(torch.equal(value, averaged.state_dict()[name]) for name, value in guard.good.state_dict().items())


def test_the_guard_judges_from_when_the_weight_of_the_discriminator_has_risen() -> None:
    """Before, it only measures the student that the stage begins with."""
    method, student = game(steps=100), build(STUDENT, seed=0)  # 5 steps alone, 10 of rising, a look every 5
    modules = method.modules(None, student)
    guard = cast(LooksGuard, modules["guard"])
    guard.collect(torch.zeros(CROPS, 3, 8, 8), torch.zeros(CROPS, 3, 16, 16))
    results = iter([Looks(0, 0, 0, 0, psnr, 1, 0.6) for psnr in (30.0, *[28.0] * 9)])
    guard.measure = lambda *_: next(results)  # type: ignore[method-assign]
    looks = {done: method.follow_average(modules, student, done) for done in range(1, 26)}
    assert [done for done, after in looks.items() if after is not None] == [1, 15, 20, 25]
    assert [done for done, after in looks.items() if after is not None and after.messages] == [15, 25]


def test_a_breach_counts_once_in_a_tenth_of_the_stage() -> None:
    """So that half the weight has time to help; a student of that time is not kept as a good one."""
    guard, looks = LooksGuard(STUDENT_NETWORK), [Looks(0, 0, 0, 0, psnr, 1, 0.6) for psnr in (30.0, *[28.0] * 9)]
    results = iter(looks)
    guard.measure = lambda *_: next(results)  # type: ignore[method-assign]
    said = [len(guard.check(build(STUDENT, seed=5), coin, done, 100).messages) for done in range(0, 30, 3)]
    assert said == [0, 1, 0, 0, 0, 1, 0, 0, 0, 1] and guard.scale == 0
    assert guard.good.fingerprint() == build(STUDENT, seed=5).fingerprint()


def test_a_discriminator_that_knows_everything_for_long_is_too_strong() -> None:
    def warned(*looks: tuple[int, float]) -> list[bool]:
        """Return whether each look, after so many steps and at such an accuracy, gives a message."""
        guard, accuracies = LooksGuard(STUDENT_NETWORK), iter([accuracy for _, accuracy in looks])
        guard.measure = lambda *_: Looks(0, 0, 0, 0, 30, 1, next(accuracies))  # type: ignore[method-assign]
        return [bool(guard.check(STUDENT_NETWORK, coin, done, 100).messages) for done, _ in looks]

    assert warned(*((done, 0.99) for done in (0, 10, 20, 25, 30, 50, 60))) == [False] * 3 + [True, False, True, False]
    assert warned((0, 0.99), (10, 0.6), (20, 0.99), (40, 0.99), (45, 0.99)) == [False] * 4 + [True], "weak meanwhile"


def test_going_back_restores_the_student_and_ends_the_game() -> None:
    pair = Pair.build(perceptual(width=4, last_share=0.9), STUDENT, TEACHER, steps=40)
    state, curve = pair.fresh(), Curve()
    original, seen = LooksGuard.measure, list[dict[str, Tensor]]()

    def broken(guard: LooksGuard, averaged: Network, opponent: Any) -> Looks:
        looks = original(guard, averaged, opponent)
        seen.append({name: value.clone() for name, value in averaged.state_dict().items()})
        return replace(looks, psnr=30.0 if len(seen) == 1 else 0.0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LooksGuard, "measure", broken)
        pair.train(state, curve=curve)
    assert len(seen) == 10 and [line.rpartition(": ")[2] for line in curve.notes if "the third time" in line]
    weights = [row.get("seen/adversarial_weight") for row in curve.losses]
    assert weights[-1] is None and any(weights)
