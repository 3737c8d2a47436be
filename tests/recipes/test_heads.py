"""The auxiliary heads of DS and CLSD-style: their images, sums and gradients, and CLSD-style's contrast through φ."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from compressor.base.errors import UsageError
from compressor.data.batches import Batch
from compressor.models.networks.base import Network, Spec
from compressor.models.networks.cost import cost
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import build
from compressor.models.networks.spanf3 import SPANF3Spec
from compressor.models.networks.taps import read_taps
from compressor.training.calibration import Calibrated
from compressor.training.state import State
from recipes.config.options import make_method
from recipes.methods.clsd import Clsd
from recipes.methods.ds import DeepSupervision, auxiliary_head
from recipes.methods.scratch import Scratch
from recipes.terms.contrast import bicubic_negatives
from recipes.terms.phi import bind_phi, resolve_phi
from tests.support.method_runs import step_of
from tests.support.networks import tiny
from tests.support.tensors import noise
from tests.support.training import network, stage, train_on_patch

TAPS = ("rel(1/3)", "rel(2/3)")
X1 = tuple(replace(SPANF3Spec(scale=1, width=8, depth=3), unshuffle=factor) for factor in (1, 4))
FULL, NARROW = EDSRSpec(scale=3, width=64, depth=3), EDSRSpec(scale=2, width=16, depth=3)
STUDENTS = (FULL, NARROW, tiny("swinir", 2), tiny("rcan", 2), replace(tiny("compact", 2), channels=1), *X1)


def student(depth: int = 3) -> Network:
    return network(0, depth=depth)


def clsd(**options: object) -> Clsd:
    return Clsd(phi="teacher", **options)  # type: ignore[arg-type]


def batch() -> Batch:
    return Batch(noise(3, 3, 6, 6).sigmoid(), noise(3, 3, 12, 12, seed=1).sigmoid())


def trained(method: Clsd | DeepSupervision | Scratch, heads: nn.Module | None = None) -> str:
    """Return the fingerprint of a student after three steps."""
    one = stage([method], steps=3, rate=1e-3)
    state = State.fresh(student(), network(5), one, seed=5)
    if heads is not None:
        state.modules[method.name].load_state_dict(heads.state_dict())
    return train_on_patch(one, state, network(5))[0].student.fingerprint()


# The head


@pytest.mark.parametrize(
    "spec", STUDENTS, ids=lambda spec: f"{spec.arch}-{spec.width}-{getattr(spec, 'channels', 3)}-x{spec.scale}"
)
def test_a_head_makes_an_image_and_leaves_the_student_alone(spec: Spec) -> None:
    student = build(spec, seed=0)
    counted = cost(student).params
    lr = torch.rand(2, student.descriptor.channels, 12, 8)
    with torch.no_grad():
        before = student(lr)
    head = auxiliary_head(student, seed=1)
    with read_taps(student, ["head", "rel(1/3)"]) as features:
        after = student(lr)
    assert torch.equal(before, after)
    assert cost(student).params == counted == sum(p.numel() for p in student.parameters())
    sr = head(features["rel(1/3)"], features["head"])
    assert sr.shape == after.shape
    sr.mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())
    # Blocks after the tap get no gradient from it, those before it do.
    assert all(p.grad is None for p in student.get_submodule(student.taps["body[1]"].module).parameters())
    assert all(p.grad is not None for p in student.get_submodule(student.taps["head"].module).parameters())


def test_a_head_is_five_blocks_of_64_channels_around_the_students_own_range() -> None:
    head = auxiliary_head(build(FULL, seed=0), seed=1)
    blocks, conv = 5 * 2 * (9 * 64 * 64 + 64), 9 * 64 * 64 + 64
    upsampler, tail = 9 * 64 * 576 + 576, 9 * 64 * 3 + 3
    assert sum(p.numel() for p in head.parameters()) == blocks + conv + upsampler + tail
    assert auxiliary_head(build(NARROW, seed=0), seed=1).feature_entry.weight.shape == (64, 16, 1, 1)
    with torch.no_grad():
        head.tail.weight.zero_()
        head.tail.bias.fill_(25.5)
    feature = noise(1, 64, 4, 4)
    mean = torch.tensor([0.4488, 0.4371, 0.4040]).reshape(1, 3, 1, 1)
    assert (head(feature, feature) - mean - 0.1).abs().max() < 1e-6


# Sums


@pytest.mark.parametrize("pos", ["gt", "final"])
def test_the_terms_are_the_formula(pos: str) -> None:
    one, method, sample = student(), clsd(pos=pos), batch()
    step = step_of(method, one, None, sample, phi_of=network(5))
    terms, phi = method.terms(step), step.helpers["clsd"]["phi"]
    with torch.no_grad(), read_taps(one, ("head", *TAPS)) as features:
        sr = one(sample.lr)
        images = [head(features[tap], features["head"]) for head, tap in zip(step.modules["clsd"]["heads"], TAPS)]  # type: ignore[index,arg-type]  # noqa: B905
        contrast = torch.zeros(())
        for image in images:
            positive = sample.hr if pos == "gt" else sr
            sides = zip(phi(image), phi(positive), phi(bicubic_negatives(sample.lr, 2)), strict=True)
            for v, (a, p, n) in zip((1 / 4, 1), sides, strict=True):
                far = (n[None] - a[:, None]).abs().mean((0, 2, 3, 4)).sum()
                contrast = contrast + v * (a - p).abs().mean() / (far + 1e-7)
    expected = {
        "pixel": F.l1_loss(sr, sample.hr),
        "heads": torch.stack([F.l1_loss(image, sample.hr) for image in images]).sum(),
        "heads_contrast": contrast,
    }
    assert terms.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(terms[name].detach(), value)


def test_without_weight_the_next_simpler_method_is_left_to_the_bit() -> None:
    heads = State.fresh(student(), None, stage([DeepSupervision()], steps=3), seed=5).modules["ds"]
    scratch, ds = trained(Scratch()), trained(DeepSupervision(), heads)
    assert scratch == trained(DeepSupervision(head_weight=0.0)) == trained(clsd(lam=0.0, head_weight=0.0))
    assert scratch != ds == trained(clsd(lam=0.0), heads) != trained(clsd(lam=0.5), heads)


@pytest.mark.parametrize(("tap", "block"), [("rel(1/3)", 0), ("rel(2/3)", 1)])
@pytest.mark.parametrize("term", ["heads", "heads_contrast"])
def test_a_head_sends_no_gradient_behind_its_tap(term: str, tap: str, block: int) -> None:
    one, method = student(), clsd(taps=(tap,))
    step = step_of(method, one, None, batch(), phi_of=network(5))
    method.terms(step)[term].backward()
    names = {name.rsplit(".", 1)[0] for name, p in one.named_parameters() if p.grad is not None}
    assert names == {"head"} | {f"blocks.{k}.conv{c}" for k in range(block + 1) for c in (1, 2)}
    assert all(p.grad is not None for p in step.modules.parameters())
    assert all(p.grad is None for p in step.helpers["clsd"].parameters())


def test_the_contrast_does_not_teach_the_positive() -> None:
    """The student's own image as the positive gets no gradient: it would reach the tail."""
    one, method = student(), clsd(pos="final")
    method.terms(step_of(method, one, None, batch(), phi_of=network(5)))["heads_contrast"].backward()
    assert one.tail.weight.grad is None and one.head.weight.grad is not None


def test_lambda_is_calibrated_unless_it_is_given() -> None:
    assert clsd().weights["heads_contrast"] == Calibrated(0.2)
    assert clsd(rho=0.3).weights["heads_contrast"] == Calibrated(0.3)
    assert clsd(lam=0.784).weights == {"pixel": 1.0, "heads": 1.0, "heads_contrast": 0.784}
    with pytest.raises(UsageError, match=r"rho=0\.5.*0\.3"):
        make_method("clsd", {"rho": 0.5})


def test_taps_are_options_and_are_checked_before_training() -> None:
    method = make_method("ds", {"taps": ["body[0]", "body_end"], "head_weight": 0.5})
    assert method.weights["heads"] == 0.5 and len(method.modules(None, student())["heads"]) == 2  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"'body\[11\]'"):
        clsd(taps=("body[11]",)).fit(None, student())
    with pytest.raises(UsageError, match=r"rel\(1/3\)"):
        DeepSupervision().fit(None, student(depth=2))
    with pytest.raises(UsageError, match=r"taps=\[\]"):
        make_method("ds", {"taps": []})


# φ


def test_without_a_teacher_phi_is_made_of_the_embedded_ones_blocks() -> None:
    one = student()
    method = bind_phi([clsd()], resolve_phi("teacher"))[0]
    method.fit(None, one)
    phi = method.helpers(None, one)["phi"]
    assert phi.network.spec.width == 48 and phi.levels >= 1
    assert all(p.device.type == "cpu" and not p.requires_grad for p in phi.parameters())
    embedded = network(5)
    assert method.helpers(embedded, one)["phi"].network.spec == embedded.spec
