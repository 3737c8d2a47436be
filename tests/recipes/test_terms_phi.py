"""CSD's ratio and its networks φ: VGG-19 or the teacher's first blocks, and the selection for a run."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from compressor.base.errors import SrkdError
from compressor.models.networks.base import Spec
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import build, spec_from_dict
from compressor.models.networks.taps import read_taps
from recipes.terms.contrast import bicubic_negatives, negative_indices, sample_distances
from recipes.terms.perceptual import VGG19, VGG19_MACS, TeacherPhi, load_vgg19, plan_teacher_phi
from tests.support.networks import label, tiny
from tests.support.tensors import close, contrast_ratio, golden, gradient_of, noise

DEEP = EDSRSpec(scale=2, width=8, depth=7)
SHIFTED = EDSRSpec(scale=2, width=8, depth=2, mean_shift="file")
TEACHERS = (DEEP, SHIFTED, *(tiny(arch, 2) for arch in ("carn", "compact", "rcan", "swinir")))


# The ratio


def official_phi(case: dict[str, Tensor], images: Tensor) -> list[Tensor]:
    """Return the features of the golden case's stand-in for VGG-19: five convolutions, each followed by a ReLU."""
    levels = []
    for k in range(5):
        weight, bias = case[f"state_s.{k}.weight"], case[f"state_s.{k}.bias"]
        images = F.relu(F.conv2d(images, weight, bias, stride=1 if k == 0 else 2, padding=1))
        levels.append(images)
    return levels


def test_ratio_of_the_official_code() -> None:
    case = golden("csd_contrast")
    student, teacher = case["in_student"].requires_grad_(), case["in_teacher"].requires_grad_()
    negatives = official_phi(case, case["in_neg"])
    anchors, positives = official_phi(case, student), official_phi(case, teacher)
    near, far = sample_distances(anchors, positives, negatives).mean(0).unbind(1)
    for k in range(5):
        assert near[k].item() == pytest.approx(case["out_d_ts_levels"][k].item(), rel=1e-5)
        assert far[k].item() == pytest.approx(case["out_d_sn_levels"][k].item(), rel=1e-5)
    loss = contrast_ratio(anchors, positives, negatives)
    assert loss.item() == pytest.approx(case["out_loss_L1_tgrad"].item(), rel=1e-5)
    loss.backward()
    assert close(student.grad, case["out_grad_student_L1_tgrad"])
    assert close(teacher.grad, case["out_grad_teacher_L1_tgrad"])


def test_ratio_with_a_detached_teacher_one_negative_and_no_difference() -> None:
    case = golden("csd_contrast")
    positives = [level.detach() for level in official_phi(case, case["in_teacher"])]
    negatives = official_phi(case, case["in_neg"])

    def loss(images: Tensor) -> Tensor:
        return contrast_ratio(official_phi(case, images), positives, negatives)

    student = case["in_student"]
    assert loss(student).item() == pytest.approx(case["out_loss_L1_tdetach"].item(), rel=1e-5)
    assert close(gradient_of(loss, student), case["out_grad_student_L1_tdetach"])
    one = contrast_ratio(official_phi(case, student), positives, [level[:1] for level in negatives])
    assert one.item() == pytest.approx(case["out_loss_L1_tdetach_oneneg"].item(), rel=1e-5)
    assert loss(case["in_teacher"]).item() == case["out_loss_L1_student_equals_teacher"].item() == 0
    anchors, doubled = official_phi(case, student), [torch.cat([n, n]) for n in negatives]
    assert contrast_ratio(anchors, positives, doubled).item() == pytest.approx(loss(student).item() / 2, rel=1e-5)
    # Not only the sum: D of every level is halved.
    once, twice = (sample_distances(anchors, positives, some).mean(0).unbind(1) for some in (negatives, doubled))
    assert torch.allclose(twice[0] / twice[1], once[0] / once[1] / 2, rtol=1e-5)


def test_negatives_serve_every_anchor_and_get_no_gradient() -> None:
    anchors, negatives = noise(3, 4, 5, 6), noise(2, 4, 5, 6, seed=1).requires_grad_()

    def plain(a: Tensor) -> Tensor:
        return (negatives.detach()[None] - a[:, None]).abs().mean((0, 2, 3, 4)).sum()

    def term_of(a: Tensor) -> Tensor:
        return sample_distances([a], [a.detach()], [negatives]).mean(0)[0, 1]

    assert term_of(anchors).item() == pytest.approx(plain(anchors).item(), rel=1e-6)
    assert close(gradient_of(term_of, anchors), gradient_of(plain, anchors), 1e-6)
    assert negatives.grad is None


def test_ratio_is_finite_where_student_positive_and_negatives_coincide() -> None:
    same = [noise(2, 3, 4, 4, seed=k) for k in range(2)]
    assert contrast_ratio(same, same, [level[:1].expand(2, -1, -1, -1) for level in same]).isfinite()
    flat = torch.zeros(2, 3, 4, 4)
    assert gradient_of(lambda s: contrast_ratio([s], [flat], [flat]), flat).isfinite().all()
    assert contrast_ratio([flat + 0.1], [flat], [flat]).item() == pytest.approx(1 / 2, rel=1e-5)


def test_negatives_are_drawn_without_replacement_and_evenly() -> None:
    samples = list(range(100, 116))
    counted: Counter[int] = Counter()
    for step in range(400):
        indices = negative_indices(samples, 10, seed=3, step=step)
        assert len(set(indices)) == 10 and set(indices) <= set(range(16))
        counted.update(indices)
    assert len(counted) == 16 and all(abs(times - 250) < 60 for times in counted.values())
    assert negative_indices(samples, 10, seed=3, step=7) == negative_indices(samples, 10, seed=3, step=7)
    assert negative_indices(samples, 10, seed=3, step=7) != negative_indices(samples, 10, seed=4, step=7)
    assert negative_indices(samples, 10, seed=3, step=7, compat="csd") == list(range(10))
    assert negative_indices(samples[:4], 10, seed=3, step=7) == [0, 1, 2, 3]


def test_negatives_are_torch_bicubic() -> None:
    case = golden("csd_bicubic_negative")
    lr = case["in_lr"].requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = bicubic_negatives(lr, 4)
    assert not actual.requires_grad and close(actual, case["out_up"])
    assert actual.max() > 255 or actual.min() < 0


# VGG-19

PUBLISHED = {
    0: (64, 3), 2: (64, 64), 5: (128, 64), 7: (128, 128), 10: (256, 128), 12: (256, 256), 14: (256, 256),
    16: (256, 256), 19: (512, 256), 21: (512, 512), 23: (512, 512), 25: (512, 512), 28: (512, 512),
}  # fmt: skip
"""Configuration E of Simonyan and Zisserman in torchvision's numbering: (outputs, inputs) by layer, up to conv5_1."""


@pytest.fixture(scope="module")
def vgg() -> VGG19:
    torch.manual_seed(0)
    return VGG19()


def test_vgg19_has_the_published_layers_names_and_size(vgg: VGG19) -> None:
    shapes = {name: tuple(value.shape) for name, value in vgg.state_dict().items()}
    expected: dict[str, tuple[int, ...]] = {}
    for index, (outputs, inputs) in PUBLISHED.items():
        expected |= {f"features.{index}.weight": (outputs, inputs, 3, 3), f"features.{index}.bias": (outputs,)}
    assert shapes == expected
    assert sum(p.numel() for p in vgg.parameters()) == 20_024_384 - 3 * 2_359_808
    assert [i for i, layer in enumerate(vgg.features) if isinstance(layer, nn.MaxPool2d)] == [4, 9, 18, 27]
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        VGG19()(torch.empty(1, 3, 192, 192))
    assert (
        counter.get_total_flops() // 2
        == VGG19_MACS
        == sum(
            9 * outputs * inputs * (192 >> sum(pool < index for pool in (4, 9, 18, 27))) ** 2
            for index, (outputs, inputs) in PUBLISHED.items()
        )
    )


def test_vgg19_levels_are_the_first_relus_of_the_five_stages(vgg: VGG19) -> None:
    images = torch.rand(1, 3, 32, 48)
    by_hand, x = [], 255 * images
    with torch.no_grad():
        for index in range(30):
            x = vgg.features[index](x)
            if index in (1, 6, 11, 20, 29):
                by_hand.append(x)
        levels = vgg(images)
        grey = vgg(images[:, :1])
    assert [tuple(level.shape[1:]) for level in levels] == [
        (64, 32, 48), (128, 16, 24), (256, 8, 12), (512, 4, 6), (512, 2, 3),
    ]  # fmt: skip
    assert all(torch.equal(actual, expected) for actual, expected in zip(levels, by_hand, strict=True))
    assert all(level.min() == 0 for level in levels)
    assert [level.shape for level in grey] == [level.shape for level in levels]


def test_vgg19_is_frozen_for_good_and_passes_gradients_on(vgg: VGG19) -> None:
    images = torch.rand(1, 3, 16, 16).requires_grad_()
    vgg.train()
    assert not vgg.training
    sum(level.mean() for level in vgg(images)).backward()
    assert images.grad.abs().max() > 0
    assert all(p.grad is None and not p.requires_grad for p in vgg.parameters())


def test_vgg19_loads_the_whole_file_and_refuses_others(vgg: VGG19, tmp_path: Path) -> None:
    whole = dict(vgg.state_dict())
    whole |= {"features.30.weight": torch.zeros(512, 512, 3, 3), "classifier.6.bias": torch.zeros(1000)}
    torch.save(whole, tmp_path / "vgg19.pth")
    before = torch.random.get_rng_state()
    loaded = load_vgg19(tmp_path / "vgg19.pth")
    TeacherPhi(build(DEEP, seed=0))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(value, whole[name]) for name, value in loaded.state_dict().items())
    assert not any(p.requires_grad for p in loaded.parameters())
    with pytest.raises(SrkdError, match=r"vgg19\.pth: .* not with dcbb9e9d"):
        load_vgg19(tmp_path / "vgg19.pth", sha256="dcbb9e9d")
    torch.save({"features.0.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "part.pth")
    with pytest.raises(SrkdError, match=r"part\.pth: .*0\.bias is missing"):
        load_vgg19(tmp_path / "part.pth")
    torch.save({"features.0.weight": torch.zeros(32, 3, 3, 3)}, tmp_path / "vgg11.pth")
    with pytest.raises(SrkdError, match=r"0\.weight is .*\(32, 3, 3, 3\)"):
        load_vgg19(tmp_path / "vgg11.pth")


# The teacher's first blocks


@pytest.mark.parametrize("spec", TEACHERS, ids=label)
def test_teacher_phi_is_the_first_blocks_and_nothing_else(spec: Spec) -> None:
    teacher = build(spec, seed=0)
    phi = TeacherPhi(teacher)
    blocks = [tap for tap in teacher.taps if tap.startswith("body[")]
    assert phi.levels == min(5, len(blocks))
    images = torch.rand(2, 3, 9, 10)
    with torch.no_grad(), read_taps(teacher, blocks[: phi.levels]) as features:
        teacher(images)
    levels = phi(images)
    assert len(levels) == phi.levels
    assert all(torch.equal(actual, features[tap]) for actual, tap in zip(levels, features, strict=True))
    names = {name.removeprefix("network.") for name, _ in phi.named_parameters()}
    assert names < {name for name, _ in teacher.named_parameters()}
    assert not any(name.startswith(("tail", "upsampler", "exit", "body_end")) for name in names)
    copy = images.clone().requires_grad_()
    sum(level.float().square().mean() for level in phi(copy)).backward()
    assert copy.grad.abs().max() > 0
    assert all(p.grad is None for p in phi.parameters())
    assert phi(images[:1])[0].shape == (1, *levels[0].shape[1:])


def test_teacher_phi_is_a_frozen_copy() -> None:
    teacher = build(DEEP, seed=0).train().requires_grad_(True)
    for parameter in teacher.parameters():
        parameter.grad = torch.ones_like(parameter)
    phi = TeacherPhi(teacher)
    images = torch.rand(1, 3, 8, 8)
    before = phi(images)
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.add_(1.0)
    assert all(torch.equal(a, b) for a, b in zip(before, phi(images), strict=True))
    assert all(p.requires_grad and p.grad is not None for p in teacher.parameters())
    assert teacher.training and not phi.train().training


def test_teacher_phi_costs_no_more_than_vgg19() -> None:
    """For EDSR 16/64 four blocks of 2.72 G cost 10.93 G with the head; a fifth would exceed 13.31 G."""
    block = 2 * 9 * 64 * 64 * 192 * 192
    head = 9 * 3 * 64 * 192 * 192
    plan = plan_teacher_phi(spec_from_dict({"arch": "edsr", "scale": 4, "width": 64, "depth": 16}))
    assert plan.macs == tuple(head + (k + 1) * block for k in range(4))
    assert plan.macs[-1] <= VGG19_MACS < plan.macs[-1] + block
    large = plan_teacher_phi(spec_from_dict({"arch": "edsr", "scale": 4, "width": 256, "depth": 32}))
    assert len(large.macs) == 1 and large.macs[0] > VGG19_MACS
    shifted = spec_from_dict({"arch": "edsr", "scale": 4, "width": 64, "depth": 16, "mean_shift": "file"})
    assert plan_teacher_phi(shifted).macs == plan.macs
