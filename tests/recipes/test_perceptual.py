"""The perceptual student: its discriminator, its stages, and the strength that is chosen between their ends."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import srkd
from compressor.base.errors import SrkdError, UsageError
from compressor.models.networks.base import Network
from compressor.models.networks.compact import CompactSpec
from compressor.models.networks.registry import build
from compressor.models.students.blend import between
from compressor.training.calibration import scaled_weight
from compressor.training.guard import require_paths
from compressor.training.step import Step
from recipes.config.options import make_method
from recipes.config.reading import load_preset
from recipes.methods.perceptual import (
    DETAIL_GAIN,
    Perceptual,
    Textured,
    fine_detail,
    pixel_terms,
    target_of,
    wavelet_l1,
)
from recipes.terms import texture
from recipes.terms.discriminator import SpectralConv, UNetDiscriminator, opponent_loss, student_loss
from recipes.terms.strength import blended
from tests.support.method_runs import Curve, Pair, Waves, numbers, step_of
from tests.support.methods_table import STUDENT, TEACHER
from tests.support.tensors import golden, noise


def perceptual(**options: Any) -> Perceptual:
    return make_method("perceptual", options)


def game(*, began: int = 10, steps: int = 1000, **options: Any) -> Textured:
    return Textured(perceptual(width=4, **options), began, steps)


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
    (gradient,) = torch.autograd.grad(0.1 * student_loss(fake), case["in_fake"], retain_graph=True)
    official_gradient = case["out_grad_fake_of_loss_g"]
    assert torch.allclose(gradient, official_gradient, atol=2e-2 * float(official_gradient.abs().max()))
    assert 0.1 * student_loss(fake).item() == pytest.approx(case["out_loss_g_vanilla"].item(), rel=2e-3)
    of_opponent = case["out_loss_d_real"] + case["out_loss_d_fake"]
    assert opponent_loss(real, fake).item() == pytest.approx(of_opponent.item(), rel=2e-3)


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


def test_each_loss_pulls_to_its_own_side() -> None:
    """A student's loss falls as its image looks more real, the opponent's as it tells the two apart."""
    real, fake = torch.full((1, 1, 2, 2), 0.5, requires_grad=True), torch.full((1, 1, 2, 2), -0.5, requires_grad=True)
    (of_fake,) = torch.autograd.grad(student_loss(fake), fake)
    assert (of_fake < 0).all()
    of_real, of_fake = torch.autograd.grad(opponent_loss(real, fake), (real, fake))
    assert (of_fake > 0).all() and (of_real < 0).all()


def test_it_learns_to_tell_a_blurred_image_from_its_original() -> None:
    torch.manual_seed(0)
    opponent, sharp = UNetDiscriminator(4), noise(8, 3, 32, 32).mul(0.1).add(0.5)
    blurred = F.avg_pool2d(sharp, 3, 1, 1)
    optimiser = torch.optim.Adam(opponent.parameters(), lr=2e-3)
    for _ in range(40):
        real, fake = opponent(fine_detail(torch.cat([sharp, blurred])), learns=True).chunk(2)
        loss = opponent_loss(real, fake)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
    right = [(opponent(fine_detail(sharp)) > 0), (opponent(fine_detail(blurred)) < 0)]
    assert torch.cat(right).float().mean() > 0.9


# The stages


def test_the_run_is_divided_and_the_last_part_has_its_own_rates() -> None:
    pair = Pair.build(perceptual(width=4), STUDENT, TEACHER, settings=("schedule.optimiser=soap",), steps=4000)
    main, first, last = pair.stages
    assert [stage.schedule.steps for stage in pair.stages] == [2800, 600, 600]
    assert (main.optimiser.name, last.optimiser.name) == ("soap", "soap") and first.is_later and last.is_later
    (method,) = last.methods
    assert isinstance(method, Textured) and (method.began, method.steps) == (3400, 600)
    state = pair.fresh()
    for stage in (first, last):
        state.enter(stage, pair.teacher)
    rates = [group["rate_ratio"] * last.schedule.rate for group in state.optimiser.param_groups]
    assert rates == pytest.approx([method.of.last_rate, method.of.opponent_rate])
    opponent = {id(parameter) for parameter in state.modules.get_submodule("perceptual-textured.opponent").parameters()}
    assert {id(parameter) for parameter in state.optimiser.param_groups[1]["params"]} == opponent


def test_a_blend_holds_in_the_last_stage_too() -> None:
    """The last stage has the factor of its method."""
    factors = {"perceptual": 0.5, "calm": 3.0}
    for blend, (own, other) in ((factors, (0.5, 3.0)), (0.25, (0.25, 0.25)), (None, (1.0, 1.0))):
        preset = load_preset("perceptual", more={"calm": {}}).with_steps(100)
        main, _, last = preset.model_copy(update={"blend": blend}).stages(preset.build_methods())
        assert [method.name for method in last.methods] == ["perceptual-textured", "calm"]
        game, calm = last.methods
        assert last.term_weights == {
            **{term: scaled_weight(weight, own) for term, weight in game.weights.items()},
            **{term: scaled_weight(weight, other) for term, weight in calm.weights.items()},
        }
        assert main.blend == blend


def test_both_ends_begin_with_the_averaged_student_of_the_main_stage() -> None:
    pair, other = (
        Pair.build(perceptual(width=4), STUDENT, TEACHER, settings=("schedule.ema=0.9",), steps=20) for _ in range(2)
    )
    assert [(stage.name, stage.schedule.steps) for stage in pair.stages[1:]] == [("faithful", 3), ("textured", 3)]
    main, whole = pair.fresh(), other.fresh()
    replace(pair, stages=pair.stages[:1]).train(main)
    averaged = main.averaged_network().fingerprint()
    for stage in pair.stages[1:]:
        main.enter(stage, pair.teacher)
        assert main.student.fingerprint() == averaged
        with torch.no_grad():
            next(iter(main.ema.network.parameters())).add_(1)
    other.train(whole)
    ends = {"main": averaged, **{name: network.fingerprint() for name, network in whole.kept.items()}}
    assert ends["main"] == averaged and len({*ends.values(), whole.averaged_network().fingerprint()}) == 3


@pytest.mark.parametrize("others", [(), ("calm",)])
def test_a_run_that_is_stopped_within_the_game_continues_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, others: tuple[str, ...]
) -> None:
    """Weights, both kept students, discriminator with u and v, and Adam's moments; beside another method, too."""
    monkeypatch.setattr("recipes.methods.perceptual.LEAST_PLAYED", 1)
    path, options = tmp_path / "state.pt", {"width": 4, "last_share": 0.4}
    pair, same = (
        Pair.build(perceptual(**options), STUDENT, TEACHER, *(make_method(name, {}) for name in others), steps=30)
        for _ in range(2)
    )
    state = pair.fresh()
    pair.train(state, curve=Curve(path, at=23))
    again = same.fresh()
    again.load(path, same.stages, same.teacher)
    assert again.stage == 2 and again.done == 23
    same.train(again)
    before, after = numbers(state), numbers(again)
    assert before.keys() == after.keys()
    assert [name for name, value in before.items() if not torch.equal(value, after[name])] == []
    assert {name: network.fingerprint() for name, network in state.kept.items()} == {
        name: network.fingerprint() for name, network in again.kept.items()
    }


def play(method: Textured, *, number: int, shift: float = 0.0) -> tuple[Step, dict[str, Tensor]]:
    """Return a step of the game, and its terms."""
    student, teacher = build(STUDENT, seed=0), build(TEACHER, seed=1).eval().requires_grad_(False)
    step = step_of(method, student, teacher, Waves(2).at(number), number=number)
    return step, method.terms(step)


def test_student_and_discriminator_learn_from_their_own_terms_alone() -> None:
    method = game()
    step, terms = play(method, number=200)
    opponent = step.modules.get_submodule("perceptual-textured.opponent")
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
    method = game()  # 50 steps alone, then 100 of rising
    numbers = (10, 60, 110, 160, 900)
    shares = [float(play(method, number=number)[0].observed["adversarial_weight"]) for number in numbers]
    assert shares == pytest.approx([0, 0, 0.005, 0.01, 0.01])
    assert "adversarial" not in play(method, number=60)[1] and "adversarial" in play(method, number=61)[1]


def test_a_short_stage_has_no_discriminator() -> None:
    for method in (game(steps=599), game(lam_adversarial=0)):
        assert not {"adversarial", "discriminator"} & {*method.weights, *play(method, number=60)[1]}
        modules = method.modules(None, build(STUDENT, seed=0))
        assert len(modules) == 0 == len(method.own_rates(build(STUDENT, seed=0), modules))
    assert {"adversarial", "discriminator"} <= {*game(steps=600).weights}


def test_the_label_is_the_teachers_image_as_a_file_holds_it() -> None:
    step, _ = play(game(), number=60)
    target = target_of(step)
    assert (target * 255).round().div(255).equal(target) and target.min() >= 0 and target.max() <= 1
    assert torch.allclose(target, step.teacher().sr.clamp(0, 1), atol=0.5 / 255 + 1e-6)


def test_each_image_gets_noise_of_its_own() -> None:
    """What the discriminator sees of a student that is its teacher differs by noise of a grey level at most."""
    method, teacher = game(), build(TEACHER, seed=1).eval().requires_grad_(False)
    step = step_of(method, teacher, teacher, Waves(2).at(900), number=900)
    seen = list[Tensor]()
    opponent = step.modules.get_submodule("perceptual-textured.opponent")
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
    agreement = texture.block_agreement(images, target)
    return texture.contrast_distance(texture.block_deviations(images), texture.block_deviations(target), agreement)


def test_texture_is_compared_where_both_agree() -> None:
    """Half the contrast is 6.02 dB and half the deviation; of other noise nothing is asked."""
    target = noise(2, 3, 64, 64).mul(0.2).add(0.5)
    for distance in (texture.spectrum_distance(target, target, torch.clone), contrast_apart(target, target)):
        assert distance.item() == pytest.approx(0, abs=1e-5)
    other = noise(2, 3, 64, 64, seed=1).mul(0.1).add(0.5)
    assert texture.spectrum_distance(other, target, torch.clone).item() < 0.1
    assert contrast_apart(other, target).item() < 0.05 * texture.block_deviations(target).mean().item()
    half = (target - 0.5) / 2 + 0.5
    assert texture.spectrum_distance(half, target, torch.clone).item() == pytest.approx(0.602, rel=0.01)
    blocks = target.unfold(2, 8, 8).unfold(3, 8, 8).var((1, 4, 5), correction=0).sqrt()
    assert contrast_apart(half, target).item() == pytest.approx(blocks.mean().item() / 2, rel=0.01)
    images = half.requires_grad_()
    for distance in (texture.spectrum_distance(images, target, torch.clone), contrast_apart(images, target)):
        (gradient,) = torch.autograd.grad(distance, images)
        assert ((gradient * (images - 0.5)).sum((1, 2, 3)) < 0).all()  # more contrast is better


def test_dots_on_the_lattice_of_lr_pixels_count_and_other_texture_does_not() -> None:
    target = F.interpolate(noise(1, 3, 8, 8).mul(0.1).add(0.5), size=64, mode="bicubic")
    dots = ((torch.arange(64)[:, None] % 4 == 1) & (torch.arange(64) % 4 == 2)).mul(10 / 255).expand_as(target)
    scattered = dots.flatten()[torch.randperm(dots.numel(), generator=torch.Generator().manual_seed(0))].view_as(dots)
    pairs = ((target + dots, target), (target + scattered, target), (target, target + dots))
    repeated, elsewhere, lacking = (texture.lattice_excess(*pair, 4).item() for pair in pairs)
    assert 1.5 < repeated < 10 * 15**0.5 / 16 - 0.5 and elsewhere < 0.3 * repeated and lacking < 0.01


def test_a_white_patch_of_the_teacher_has_a_distance_and_a_gradient() -> None:
    """As of a sky that is clipped: no ring of it has any power."""
    target = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    target[1] = 1.0
    for images in (target.clone(), (target + 0.01).clone()):
        distance = texture.spectrum_distance(images.requires_grad_(), target, torch.clone)
        distance.backward()
        assert distance.isfinite() and images.grad is not None and images.grad.isfinite().all()


def test_the_spectrum_of_a_textured_patch_counts_more_and_processes_share_its_weight() -> None:
    target = noise(2, 3, 64, 64).mul(torch.tensor([0.02, 0.2]).view(2, 1, 1, 1))
    first, second = (torch.cat([target[:n], 0.5 * target[n : n + 1], target[n + 1 :]]) for n in (0, 1))
    apart = [texture.spectrum_distance(images, target, torch.clone).item() for images in (first, second)]
    assert apart[1] == pytest.approx(10 * apart[0], rel=0.2)
    whole = list[Tensor]()

    def keep(values: Tensor) -> Tensor:
        whole.append(values)
        return values

    texture.spectrum_distance(second, target, keep)
    halves = []
    for n in (0, 1):
        values = iter(whole)
        halves.append(texture.spectrum_distance(second[n : n + 1], target[n : n + 1], lambda _: next(values)).item())  # noqa: B023
    assert sum(halves) / 2 == pytest.approx(apart[1], rel=1e-4)


def test_agreement_is_the_share_of_what_two_images_have_in_common() -> None:
    """Where an image is the other and as much noise of its own, half of its power is common to both."""
    common, own = noise(16, 3, 64, 64), noise(16, 3, 64, 64, seed=1)
    for images, share in ((common, 1.0), (common + own, 0.5), (own, 0.0), (-common, 0.0)):
        assert texture.block_agreement(images, common).mean().item() == pytest.approx(share, abs=0.03)
    # By the ratio of both distances: the spectrum of twice the power is 3.01 dB away in each ring.
    apart = texture.spectrum_distance(common + own, common, torch.clone).item()
    assert apart == pytest.approx(0.5 * 0.301, rel=0.1)


def test_only_areas_where_the_teacher_is_calm_must_be_calm() -> None:
    target = noise(1, 3, 32, 32).mul(0.1)
    target[..., :8] = 0.5  # a quarter
    restless, sharper = target.clone(), target.clone()
    restless[..., :8] += 0.01 * noise(1, 3, 32, 8, seed=1)
    sharper[..., 8:] *= 2
    own, *others = map(texture.block_deviations, (target, restless, sharper, torch.full_like(target, 0.5)))
    excess = [texture.restlessness(other, own).item() for other in (own, *others)]
    spread = restless[..., :8].unfold(2, 8, 8).var((1, 3, 4), correction=0).sqrt().mean().item()
    assert excess == pytest.approx([0, spread, 0, 0], rel=0.1)


def test_the_discriminator_sees_fine_detail_only() -> None:
    images = noise(1, 3, 32, 32)
    assert torch.allclose(fine_detail(images + 0.3), fine_detail(images), atol=1e-5)
    checkerboard = (torch.arange(32)[:, None] + torch.arange(32)).remainder(2).expand(1, 3, 32, 32).float() - 0.5
    assert fine_detail(checkerboard).abs().mean() == pytest.approx(4.0, rel=1e-3)


# The strength.


class Fixed(torch.nn.Module):
    """A student that gives the same images, whatever comes in."""

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self.register_buffer("images", images)

    def deployed(self) -> Fixed:
        return self

    def forward(self, lr: Tensor) -> Tensor:
        return cast(Tensor, self.images)


class Detour(Fixed):
    """A student that is as its teacher at both ends, and has halos between them."""

    def __init__(self, images: Tensor, strength: float) -> None:
        super().__init__(images)
        self.register_buffer("strength", torch.tensor(strength))

    def forward(self, lr: Tensor) -> Tensor:
        images, strength = (cast(Tensor, tensor) for tensor in (self.images, self.strength))
        return torch.lerp(images, halos(images), 4 * strength * (1 - strength))


def picture() -> Tensor:
    """Images with a flat half and one of blurred noise."""
    images = F.avg_pool2d(noise(4, 3, 66, 66), 3, 1).mul(0.2).add(0.5)
    images[..., :32] = images[..., :32].mul(0.02).add(0.49)
    return (255 * images.clamp(0, 1)).round() / 255


def halos(images: Tensor) -> Tensor:
    """Return images whose textured half goes 0.1 farther from grey."""
    return torch.cat([images[..., :36], images[..., 36:] + 0.1 * (images[..., 36:] - 0.5).sign()], -1)


def specks(images: Tensor) -> Tensor:
    return torch.cat([images[..., :32] + 0.02 * noise(4, 3, 64, 32), images[..., 32:]], -1)


@pytest.mark.parametrize(
    ("change", "is_clean", "strengths"),
    [
        (lambda images: images, False, {1.0}),
        (halos, False, {0.125, 0.25, 0.375, 0.5}),
        (halos, True, {1.0}),
        (specks, False, {0.0}),
    ],
    ids=["as the teacher", "halos", "halos where bicubic has more", "specks"],
)
def test_the_strength_is_the_most_that_keeps_to_the_bounds(
    change: Callable[[Tensor], Tensor], is_clean: bool, strengths: set[float]
) -> None:
    """The faithful student has half of the halos, and no specks; of other clean inputs bicubic has more halos."""
    target = picture()
    faithful = (target + halos(target)) / 2 if change is halos else target
    low = F.avg_pool2d(target, 2)
    rough, calm, near = ([(lr, target)] for lr in (torch.rand(4, 3, 32, 32), low.mean().expand_as(low), low))
    ends = (cast(Network, Fixed(faithful)), cast(Network, Fixed(change(target))))
    chosen = blended(*ends, rough if is_clean else calm, rough)
    assert chosen.strength in strengths and [row.strength for row in chosen.rows] == [n / 8 for n in range(9)]
    if change is halos and not is_clean:
        within, beyond = chosen.rows[round(8 * chosen.strength) :][:2]
        assert within.overshoot <= 1.45 * chosen.rows[0].overshoot < beyond.overshoot
        mixed = ([(torch.lerp(calm[0][0], rough[0][0], share), target)] for share in (0.0, 0.1, 1.0))
        assert [blended(*ends, own, own).strength for own in mixed] == [0, 0, 1]  # bicubic: 0, 1.5, 29 times F's
        assert blended(*ends, calm, list(calm)).strength == 0.125, "at most 1.25 times F's overshoot on clean inputs"
        assert blended(*ends, near, rough).strength == 0, "bicubic is as near to the teacher as the faithful student"
    around = (cast(Network, Detour(target, strength)) for strength in (0.0, 1.0))
    assert blended(*around, calm, rough).strength == 0  # not 1, which is within the bounds again


def test_blends_are_of_networks_that_share_a_start() -> None:
    start, generator = build(STUDENT, seed=1).eval(), torch.Generator().manual_seed(0)
    ends = [copy.deepcopy(start) for _ in range(2)]
    with torch.no_grad():
        for parameter in (parameter for end in ends for parameter in end.parameters()):
            parameter += 1e-3 * torch.randn(parameter.shape, generator=generator)
    lr = noise(1, 3, 12, 12)
    assert torch.equal(srkd.blend(*ends, 0.0)(lr), ends[0](lr))
    torch.testing.assert_close(srkd.blend(*ends, 1.0)(lr), ends[1](lr))
    middle = [(a + b) / 2 for a, b in zip(*(end.parameters() for end in ends), strict=True)]
    for own, mean in zip(srkd.blend(*ends, 0.5).parameters(), middle, strict=True):
        torch.testing.assert_close(own, mean)
    with pytest.raises(UsageError, match=r"strength 2 is outside -0\.5\.\.1\.5"):
        srkd.blend(*ends, 2)
    with pytest.raises(UsageError, match="a blend is of two networks of one spec"):
        srkd.blend(start, build(replace(STUDENT, width=STUDENT.width + 4)), 0.5)
    first = build(CompactSpec(2, width=8, depth=1), seed=1)
    turned = copy.deepcopy(first)
    with torch.no_grad():  # the same function, its units in another order
        for name in ("head.conv.weight", "head.conv.bias", "head.slope.weight"):
            turned.get_parameter(name).copy_(first.get_parameter(name).flip(0))
        inner = "layers.0.conv.weight"
        turned.get_parameter(inner).copy_(first.get_parameter(inner).flip(1))
    torch.testing.assert_close(turned(lr), first(lr))
    away = (between(first, turned, 0.5)(lr) - first(lr)).abs().mean()
    for apart in (0, away / 8):
        with torch.no_grad():
            turned.get_parameter("tail.bias").add_(apart)
        with pytest.raises(UsageError, match="were not trained from one start"):
            srkd.blend(first, turned, 0.5)
