"""Terms on features: affinity (FAKD), matching (LFD-style), contrast (FACD-style)."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from recipes.methods.facd import contrast
from recipes.methods.fakd import affinity_l1, unit_columns
from recipes.methods.lfd import attended_distance, attention
from recipes.terms.distances import pairwise_l1, sample_l1, summed_l1
from tests.support.tensors import affinity, close, golden, gradient_of, noise

# FAKD


def test_affinity_of_the_official_code() -> None:
    case = golden("fakd_sa")
    assert close(affinity(case["in_student0"]), case["out_sa_student0"][:, 0])
    assert close(affinity(case["in_teacher0"]), case["out_sa_teacher0"][:, 0])
    students = [case[f"in_student{k}"].clone().requires_grad_() for k in range(3)]
    loss = torch.stack([affinity_l1(s, case[f"in_teacher{k}"]).mean() for k, s in enumerate(students)]).sum()
    assert loss.item() == pytest.approx(case["out_loss_sa"].item(), rel=1e-5)
    loss.backward()
    for k, student in enumerate(students):
        assert close(student.grad, case[f"out_grad_student{k}"])


def test_a_position_of_zeros_has_the_official_value_and_a_finite_gradient() -> None:
    case = golden("fakd_sa_zero_pixel")
    student, teacher, official = case["in_student0"], case["in_teacher0"], case["out_grad_student0"]
    assert affinity_l1(student, teacher).mean().item() == pytest.approx(case["out_loss_sa"].item(), rel=1e-5)
    gradient = gradient_of(lambda s: affinity_l1(s, teacher).mean(), student)
    finite = official.isfinite()
    assert (~finite).sum() == 4
    assert (gradient[finite] - official[finite]).abs().max() <= 1e-5 * official[finite].abs().max()
    assert gradient[~finite].eq(0).all()


@pytest.mark.parametrize("rows", [1, 4, 18, 35])
def test_rows_at_a_time_equal_the_formula_as_it_is_written(rows: int) -> None:
    student, teacher = noise(3, 6, 5, 7), noise(3, 9, 5, 7, seed=1)
    upstream = torch.tensor([1.0, 3.0, -2.0])

    def chunked(s: Tensor) -> Tensor:
        return affinity_l1(s, teacher, block_bytes=rows * 4 * 35) * upstream

    def plain(s: Tensor) -> Tensor:
        return (affinity(s) - affinity(teacher)).abs().mean((1, 2)) * upstream

    assert torch.allclose(chunked(student), plain(student), rtol=1e-6, atol=1e-7)
    assert close(gradient_of(chunked, student), gradient_of(plain, student), 1e-6)
    assert not affinity_l1(student, teacher.requires_grad_()).requires_grad, "the teacher learns nothing"


def test_affinity_sees_directions_only() -> None:
    feature = noise(2, 6, 4, 5, dtype=torch.float64)
    whole = affinity(feature)
    assert (whole.diagonal(dim1=1, dim2=2) - 1).abs().max() < 1e-6
    scales = noise(2, 1, 4, 5, seed=1, dtype=torch.float64).exp()
    assert torch.allclose(affinity(scales * feature), whole, atol=1e-7)
    rotation = torch.linalg.qr(noise(6, 6, seed=2, dtype=torch.float64))[0]
    assert torch.allclose(affinity(torch.einsum("dc,bchw->bdhw", rotation, feature)), whole, atol=1e-7)
    assert affinity_l1(3.0 * feature, feature).max() < 1e-7
    assert 0 < affinity_l1(-feature, noise(2, 3, 4, 5, seed=3, dtype=torch.float64)).max() <= 2


def test_epsilon_is_added_to_the_norm() -> None:
    """At ‖f‖ = 1e-8 the column is halved; inside the square root the epsilon would make it almost vanish."""
    column = torch.tensor([6e-9, 8e-9], dtype=torch.float64).reshape(1, 2, 1, 1)
    assert torch.allclose(unit_columns(column).flatten(), torch.tensor([0.3, 0.4], dtype=torch.float64))


# distances


@pytest.mark.parametrize("layout", ["contiguous", "channels last", "transposed"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_summed_distances_are_those_of_the_formula(layout: str, dtype: torch.dtype) -> None:
    def laid(tensor: Tensor) -> Tensor:
        if layout == "transposed":
            return tensor.transpose(2, 3).contiguous().transpose(2, 3).to(dtype)
        usual = torch.channels_last if layout == "channels last" else torch.contiguous_format
        return tensor.to(dtype).contiguous(memory_format=usual)

    anchors, others = laid(noise(3, 4, 5, 6)), laid(noise(5, 4, 5, 6, seed=1))
    upstream = torch.tensor([1.0, 2.0, -3.0])
    cases = [
        (summed_l1, others, lambda a: (a.double()[:, None] - others.double()).abs().mean((2, 3, 4)).sum(1)),
        (sample_l1, others[:3], lambda a: (a.double() - others[:3].double()).abs().mean((1, 2, 3))),
    ]
    for term, them, plain in cases:
        assert torch.allclose(term(anchors, them), plain(anchors).float(), rtol=1e-6)
        gradient = gradient_of(lambda a, term=term, them=them: (term(a, them) * upstream).sum(), anchors)
        expected = gradient_of(lambda a, plain=plain: (plain(a) * upstream).sum(), anchors)
        assert gradient.dtype == dtype and close(
            gradient.float(), expected.float(), 1e-6 if dtype is torch.float32 else 4e-3
        )


def test_a_paired_distance_teaches_both_sides() -> None:
    one, other = noise(2, 3, 4, 4).requires_grad_(), noise(2, 3, 4, 4, seed=1).requires_grad_()
    sample_l1(one, other).mean().backward()
    assert torch.equal(one.grad, -other.grad) and close(one.grad, (one - other).detach().sign() / one.numel(), 1e-6)


# LFD-style


def test_matching_weighs_positions_by_their_share_of_the_error() -> None:
    regressed, target = noise(3, 4, 5, 6), noise(3, 4, 5, 6, seed=1)
    weights = attention((regressed - target).abs())
    assert weights.shape == (3, 1, 5, 6) and torch.allclose(weights.mean((1, 2, 3)), torch.ones(3))
    error = (regressed - target).abs()
    by_hand = (weights * error).mean() / target.abs().mean()
    assert attended_distance(regressed, target).mean().item() == pytest.approx(by_hand.item(), rel=1e-6)
    assert not weights.requires_grad
    # The attention weights are constants: the gradient is that of an L1 weighted by them.
    gradient = gradient_of(lambda r: attended_distance(r, target).mean(), regressed)
    expected = weights * (regressed - target).sign() / (error.numel() * target.abs().mean())
    assert close(gradient, expected, 1e-6)


def test_matching_is_free_of_scale_and_zero_where_nothing_is_missing() -> None:
    regressed, target = noise(2, 4, 5, 5), noise(2, 4, 5, 5, seed=1)
    once = attended_distance(regressed, target)
    assert torch.allclose(attended_distance(10 * regressed, 10 * target), once, rtol=1e-5)
    half_right = torch.stack([target[0], regressed[1]])
    distances = attended_distance(half_right, target)
    assert distances[0] == 0 and distances[1] > 0
    for at in (target, half_right):
        assert gradient_of(lambda r: attended_distance(r, target), at).isfinite().all()
    assert attended_distance(regressed, torch.zeros_like(target)).isfinite().all()


# FACD-style


def plain_pairs(anchors: Tensor, others: Tensor) -> Tensor:
    return (anchors[:, None] - others[None]).abs().flatten(2).mean(2)


def test_distances_between_all_samples_equal_the_whole_tensor() -> None:
    anchors, others = noise(3, 2, 4, 5), noise(4, 2, 4, 5, seed=1)
    assert torch.allclose(pairwise_l1(anchors, others), plain_pairs(anchors, others), rtol=1e-6)
    upstream = noise(3, 4, seed=2)
    gradient = gradient_of(lambda a: pairwise_l1(a, others) * upstream, anchors)
    assert close(gradient, gradient_of(lambda a: plain_pairs(a, others) * upstream, anchors), 1e-6)
    assert torch.allclose(sample_l1(anchors, others[:3]), plain_pairs(anchors, others).diagonal(), rtol=1e-6)


def test_contrast_by_hand_and_under_a_permutation() -> None:
    taps = [(noise(4, 3, 2, 2, seed=k), noise(4, 3, 2, 2, seed=9 + k)) for k in range(3)]
    student, teacher = [u for u, _ in taps], [f for _, f in taps]
    losses = contrast(student, teacher)
    by_hand = torch.zeros(4)
    for u, f in taps:
        for i in range(4):
            others = sum((u[i] - f[k]).abs().mean() for k in range(4) if k != i)
            by_hand[i] += (u[i] - f[i]).abs().mean() / (others + 1e-7) / 3
    assert torch.allclose(losses, by_hand, rtol=1e-5)
    order = torch.tensor([2, 0, 3, 1])
    for form in ("ratio", "infonce"):
        shuffled = contrast([u[order] for u in student], [f[order] for f in teacher], form)
        assert torch.allclose(shuffled, contrast(student, teacher, form)[order], rtol=1e-5)


def test_contrast_of_a_student_that_is_right_and_of_a_batch_of_one_patch() -> None:
    teacher = noise(4, 3, 2, 2)
    assert contrast([teacher], [teacher]).eq(0).all()
    one = noise(1, 3, 2, 2, seed=1).expand(4, -1, -1, -1)
    same_student = noise(1, 3, 2, 2, seed=2).expand(4, -1, -1, -1)
    assert torch.allclose(contrast([same_student], [one]), torch.full((4,), 1 / 3), rtol=1e-5)
    # This holds for any feature of each patch.
    assert torch.allclose(contrast([noise(4, 3, 2, 2, seed=3)], [one]), torch.full((4,), 1 / 3), rtol=1e-5)
    assert torch.allclose(contrast([same_student], [one], "infonce"), torch.full((4,), math.log(4)), rtol=1e-5)
    assert (
        contrast([teacher], [teacher], "infonce").mean() < contrast([teacher.roll(1, 0)], [teacher], "infonce").mean()
    )


def test_contrast_has_a_gradient_in_the_student_alone_and_a_finite_one() -> None:
    for form in ("ratio", "infonce"):
        for start in (noise(3, 4, 2, 2), torch.zeros(3, 4, 2, 2), noise(3, 4, 2, 2, seed=1)):
            student, teacher = start.clone().requires_grad_(), noise(3, 4, 2, 2, seed=1).requires_grad_()
            contrast([student], [teacher], form).mean().backward()
            assert teacher.grad is None and student.grad.isfinite().all()


# all


@pytest.mark.parametrize(
    "term",
    [affinity_l1, attended_distance, lambda s, t: contrast([s], [t]), lambda s, t: contrast([s], [t], "infonce")],
)
def test_terms_are_computed_in_fp32_under_autocast(term: Callable[[Tensor, Tensor], Tensor]) -> None:
    student, teacher = noise(3, 6, 4, 4).bfloat16(), noise(3, 6, 4, 4, seed=1).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = term(student, teacher)
    assert losses.dtype == torch.float32 and losses.shape == (3,)
    assert torch.allclose(losses.double(), term(student.double(), teacher.double()), rtol=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        gradient = gradient_of(lambda s: term(s, teacher), student)
    assert gradient.dtype == torch.bfloat16 and gradient.isfinite().all()
