"""Terms on images: Haar bands and fusion (HKDSR), new inputs and their augmentation (DUKD), heads (DS, CLSD-style)."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from compressor.base.errors import UsageError
from compressor.base.randomness import crop_each, random_positions
from compressor.images.resize import imresize
from recipes.methods.dukd import zoom_in, zoom_in_cells
from recipes.methods.hkdsr import FusionGate, band_l1, matrix_l1, windowed_matrix_l1
from recipes.terms.haar import high_bands, low_band
from recipes.terms.symmetries import Operations, apply, draw_operations, invert
from tests.support.tensors import close, golden, gradient_of, noise

# HKDSR: bands


@pytest.mark.parametrize("size", ["even", "odd"])
def test_haar_of_the_official_code(size: str) -> None:
    case = golden("hkdsr_dwt")
    images = case[f"in_x_{size}"]
    for index, band in enumerate(high_bands(images)):
        assert (band - case[f"out_{size}_J1_{index}"]).abs().max() < 1e-6
    lower = low_band(images)
    for index, band in enumerate([low_band(lower), *high_bands(lower)]):
        assert (band - case[f"out_{size}_J2_{index if index == 0 else index + 3}"]).abs().max() < 2e-6


@settings(max_examples=25)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
def test_haar_keeps_energy_and_has_nothing_to_say_of_flat_images(h: int, w: int, seed: int) -> None:
    images = noise(2, 3, h, w, seed=seed, dtype=torch.float64)
    bands = high_bands(images)
    energy = sum(band.square().sum() for band in (low_band(images), *bands))
    assert torch.allclose(torch.as_tensor(energy), images.square().sum())
    assert all(band.shape[-2:] == (math.ceil(h / 2), math.ceil(w / 2)) for band in bands)
    flat = torch.full((1, 3, 2 * h, 2 * w), 0.7)
    assert all(band.eq(0).all() for band in high_bands(flat))


def haar_levels(images: Tensor, count: int) -> list[Tensor]:
    """The low band of the last level, then the high bands of each, the first level first."""
    bands = list[Tensor]()
    for _ in range(count):
        bands += high_bands(images)
        images = low_band(images)
    return [images, *bands]


def test_losses_on_bands_of_the_official_code() -> None:
    case = golden("hkdsr_fsm")
    student, teacher, label = case["in_student"], case["in_teacher"], case["in_gt"]

    def wave(s: Tensor) -> Tensor:
        return 2 * band_l1(s, teacher).mean()

    def matrices(levels: int, bands: range) -> object:
        targets, labels = haar_levels(teacher, 2), haar_levels(label, levels)

        def loss(s: Tensor) -> Tensor:
            student_bands = haar_levels(s, 2)
            return torch.stack([matrix_l1(student_bands[k], targets[k], labels[k]).mean() for k in bands]).sum()

        return loss

    expected = {
        "waveloss_w2": wave,
        "simloss_gtJ1": matrices(1, range(1, 4)),
        "simloss_gtJ2": matrices(2, range(1, 7)),
        "lowsimloss_gtJ2": matrices(2, range(1)),
    }
    for name, loss in expected.items():
        assert callable(loss)
        assert loss(student).item() == pytest.approx(case[f"out_{name}"].item(), rel=1e-5), name
        assert close(gradient_of(loss, student), case[f"out_grad_student_{name}"]), name


def test_matrices_are_compared_as_they_are_written() -> None:
    student, teacher, label = (noise(2, 3, 4, 5, seed=k) for k in range(3))
    m = [(image.flatten(2).transpose(1, 2) @ label.flatten(2)) for image in (student, teacher)]
    assert torch.allclose(matrix_l1(student, teacher, label), (m[0] - m[1]).abs().mean((1, 2)), rtol=1e-5)


def test_windows_of_the_matrix_form() -> None:
    student, teacher, label = (noise(4, 3, 24, 20, seed=k) for k in range(3))

    def loss(seed: int = 1, step: int = 2, window: int = 6, samples: tuple[int, ...] = (7, 8, 9, 10)) -> Tensor:
        return windowed_matrix_l1(student, teacher, label, seed=seed, step=step, samples=samples, window=window)

    whole = torch.stack(
        [matrix_l1(*bands) for bands in zip(*(high_bands(x) for x in (student, teacher, label)), strict=True)]
    )
    assert torch.allclose(loss(window=24), whole.sum(0), rtol=1e-6)
    assert torch.equal(loss(), loss())
    for other in (loss(seed=2), loss(step=3), loss(window=5)):
        assert not torch.allclose(other, loss())
    # A rank with the last two samples computes the same for them as a single process.
    half = windowed_matrix_l1(student[2:], teacher[2:], label[2:], seed=1, step=2, samples=(9, 10), window=6)
    assert torch.equal(half, loss()[2:])
    draw = {"seed": 1, "step": 2, "samples": range(4)}
    assert windowed_matrix_l1(teacher, teacher, label, **draw).eq(0).all()
    gradient = gradient_of(lambda s: windowed_matrix_l1(s, teacher, label, **draw, window=6), student)
    assert gradient.abs().amax((1, 2, 3)).gt(0).all()


# HKDSR: fusion


def test_fusion_of_the_official_code() -> None:
    case = golden("hkdsr_acf")
    gate = FusionGate()
    layers = {"squeeze": "0", "choose": "2"}
    gate.load_state_dict(
        {
            f"{name}.{kind}": case[f"state_adaptconv.{k}.{kind}"]
            for name, k in layers.items()
            for kind in ("weight", "bias")
        }
    )

    def loss(student: Tensor) -> Tensor:
        return (student - gate(case["in_gt"], case["in_teacher"])).abs().mean()

    student = case["in_student"]
    assert loss(student).item() == pytest.approx(case["out_loss"].item(), rel=1e-5)
    assert close(gradient_of(loss, student), case["out_grad_student"])
    for name, k in layers.items():
        layer = gate.get_submodule(name)
        assert close(layer.weight.grad, case[f"out_grad.adaptconv.{k}.weight"])
        assert close(layer.bias.grad, case[f"out_grad.adaptconv.{k}.bias"])


def test_shares_of_the_fusion() -> None:
    hr, teacher = torch.rand(4, 3, 8, 8), torch.rand(4, 3, 8, 8)
    gate = FusionGate()
    least, most = 1 / (1 + math.e), math.e / (1 + math.e)
    for bias in ((0.0, 0.0), (90.0, -90.0)):
        with torch.no_grad():
            gate.choose.bias.copy_(torch.tensor(bias))
        shares = gate.shares(hr, teacher)
        assert torch.allclose(shares.sum(1), torch.ones(4, 1, 1)) and least - 1e-6 <= shares.min()
        assert shares.max() <= most + 1e-6
    assert shares[0].flatten().tolist() == pytest.approx([most, least])
    assert torch.allclose(gate(hr, hr), hr, atol=1e-6)


# DUKD: augmentation


def all_subsets() -> Operations:
    """Return operations for which sample b has i, h, v, t according to its bits 0, 1, 2, 3, as in the golden case."""
    bits = torch.tensor([[b >> k & 1 for k in range(4)] for b in range(16)], dtype=torch.bool)
    return Operations(*bits.unbind(1))


def test_operations_of_the_official_code() -> None:
    case = golden("dukd_noising")
    images = case["in_x"]
    assert torch.equal(apply(images, all_subsets()), case["out_augmented"])
    assert torch.equal(invert(case["out_augmented"], all_subsets(), bug=True), case["out_augmented_twice"])
    assert torch.equal(images, golden("dukd_noising")["in_x"])


def test_the_inverse_restores_every_subset_and_the_official_order_fails_for_four() -> None:
    images, operations = torch.rand(16, 3, 6, 6), all_subsets()
    restored = invert(apply(images, operations), operations)
    flipped_only = ~operations.inverted
    assert torch.equal(restored[flipped_only], images[flipped_only])
    assert (restored - images).abs().max() <= 2**-24
    official = invert(apply(images, operations), operations, bug=True)
    wrong = ((official - images).abs().amax((1, 2, 3)) > 1e-3).nonzero().flatten().tolist()
    assert wrong == [10, 11, 12, 13]


def test_operations_pass_gradients_and_refuse_what_cannot_be_transposed() -> None:
    operations = all_subsets()
    upstream = noise(16, 3, 4, 4)
    gradient = gradient_of(lambda x: invert(x, operations) * upstream, torch.rand(16, 3, 4, 4))
    # The operations are linear up to a constant, and the gradient is their transpose: `apply` without that constant.
    constant = apply(torch.zeros(16, 3, 4, 4), operations)
    assert torch.allclose(gradient, apply(upstream, operations) - constant, atol=1e-6)
    flips = Operations(*(torch.tensor([True, False]) for _ in range(3)), transposed=torch.zeros(2, dtype=torch.bool))
    oblong = torch.rand(2, 3, 4, 6)
    assert (invert(apply(oblong, flips), flips) - oblong).abs().max() <= 2**-24
    with pytest.raises(UsageError, match="6x4"):
        apply(oblong, Operations(*(torch.tensor([True, False]) for _ in range(4))))


def test_operations_are_coins_of_their_own() -> None:
    operations = draw_operations(0.3, stream="zoom-in", seed=1, step=5, samples=range(4000))
    coins = torch.stack([operations.inverted, operations.upended, operations.mirrored, operations.transposed]).double()
    assert (coins.mean(1) - 0.3).abs().max() < 0.03
    assert (torch.corrcoef(coins) - torch.eye(4)).abs().max() < 0.06
    part = draw_operations(0.3, stream="zoom-in", seed=1, step=5, samples=range(1000, 1400))
    assert torch.equal(part.transposed, operations.transposed[1000:1400])
    other = draw_operations(0.3, stream="zoom-out", seed=1, step=5, samples=range(4000))
    assert not torch.equal(other.inverted, operations.inverted)
    # A sample's copies have different operations, at the positions of its copies of the batch.
    copies = draw_operations(0.5, stream="x", seed=1, step=5, samples=range(64), copies=2)
    assert not torch.equal(copies.inverted[:64], copies.inverted[64:])
    last = draw_operations(0.5, stream="x", seed=1, step=5, samples=range(32, 64), copies=2)
    assert torch.equal(last.inverted[32:], copies.inverted[96:])


# DUKD: new inputs


def found_at(small: Tensor, large: Tensor) -> list[tuple[int, int]]:
    h, w = small.shape[-2:]
    rows, columns = large.shape[-2] - h + 1, large.shape[-1] - w + 1
    return [
        (top, left)
        for top, left in itertools.product(range(rows), range(columns))
        if torch.equal(large[:, top : top + h, left : left + w], small)
    ]


def test_zoom_in_is_a_crop_of_each_patch_at_a_random_position() -> None:
    hr = torch.rand(8, 3, 12, 16)
    crops = zoom_in(hr, (4, 5), seed=1, step=2, samples=range(8))
    assert crops.shape == (8, 3, 4, 5)
    where = [found_at(crop, patch) for crop, patch in zip(crops, hr, strict=True)]
    assert all(len(places) == 1 for places in where) and len({places[0] for places in where}) > 4
    assert torch.equal(zoom_in(hr[3:5], (4, 5), seed=1, step=2, samples=(3, 4)), crops[3:5])
    assert not torch.equal(zoom_in(hr, (4, 5), seed=1, step=3, samples=range(8)), crops)
    assert torch.equal(zoom_in(hr, (12, 16), seed=1, step=2, samples=range(8)), hr)


def test_places_reach_every_corner() -> None:
    (positions,) = random_positions("test", 0, 0, range(600), (2, 3))
    assert set(positions) == set(itertools.product(range(3), range(4)))
    with pytest.raises(ValueError, match="shorter"):
        crop_each(torch.rand(3, 1, 2, 2), [(0, 0)], 1, 1)


def test_cells_of_the_official_zoom_in() -> None:
    hr = torch.rand(3, 3, 12, 12)
    cells = zoom_in_cells(hr, (4, 4), 2, seed=1, step=2)
    assert cells.shape == (6, 3, 4, 4)
    for copy in (cells[:3], cells[3:]):
        where = [found_at(cell, patch)[0] for cell, patch in zip(copy, hr, strict=True)]
        assert len(set(where)) == 1
        assert where[0][0] % 4 == where[0][1] % 4 == 0
    everything = zoom_in_cells(hr, (4, 4), 9, seed=1, step=2)
    corners = {found_at(everything[3 * k], hr[0])[0] for k in range(9)}
    assert corners == set(itertools.product((0, 4, 8), (0, 4, 8)))
    assert torch.equal(zoom_in_cells(hr[1:], (4, 4), 1, seed=1, step=2), cells[1:3])
    with pytest.raises(UsageError, match=r"9 cells.*\b10 .*fewer cells"):
        zoom_in_cells(hr, (4, 4), 10, seed=1, step=2)


def test_zoom_out_is_the_unclamped_float_resizer() -> None:
    case = golden("imresize")
    for scale in (2, 3, 4):
        assert (imresize(case["in_img"][None], 1 / scale)[0] - case[f"out_down{scale}"]).abs().max() < 2e-6
        assert (imresize(torch.full((1, 3, 12, 12), 0.7), 1 / scale) - 0.7).abs().max() < 1e-6
    edge = torch.zeros(1, 1, 8, 8)
    edge[..., 4:] = 1
    assert imresize(edge, 1 / 2).min() < 0 and imresize(edge, 1 / 2).max() > 1
