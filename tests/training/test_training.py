"""The training loop: it learns, is bitwise reproducible, and does not change the teacher."""

from __future__ import annotations

import pytest
import torch

from compressor.assets import embedded_teacher
from compressor.models.checkpoints.load import load_checkpoint
from compressor.models.students.students import build_student
from compressor.training.state import EMA, State
from recipes.methods.logits import Logits
from recipes.methods.scratch import Inherit, Scratch
from tests.support.training import network, stage, train_on_patch


def test_scratch_overfits_one_patch():
    _, recorder = train_on_patch(stage([Scratch()], steps=400, rate=2e-3, decay="cosine"))
    assert recorder.losses[0]["loss"] > 0.05
    assert recorder.losses[-1]["loss"] < 0.005


def test_a_trained_network_makes_a_constant_image_of_a_constant_one():
    """This is a result of training: with random weights, neighbouring pixels after a pixel shuffle differ."""
    shade = 0.5
    with torch.no_grad():
        sr = load_checkpoint(embedded_teacher()).network(torch.full((1, 3, 32, 32), shade))
        drawn = network(0)(torch.full((1, 3, 32, 32), shade))
    assert (sr - sr.mean((2, 3), keepdim=True)).abs().max() < 1e-2 and (sr - shade).abs().max() < 1e-2
    assert (drawn - drawn.mean((2, 3), keepdim=True)).abs().max() > 1e-2


def test_an_inherited_student_learns_and_its_teacher_does_not():
    """The student is a slice of the teacher and shares nothing with it."""
    teacher = network(1, width=12).requires_grad_(False)
    before, student = teacher.fingerprint(), build_student(teacher, width=0.5)
    start, one = student.fingerprint(), stage([Inherit()], steps=10, rate=1e-3)
    state, _ = train_on_patch(one, State.fresh(student, teacher, one), teacher)
    assert teacher.fingerprint() == before
    assert state.student.fingerprint() != start
    for cut, weight in zip(build_student(teacher, width=0.5).parameters(), state.student.parameters(), strict=True):
        assert cut.shape == weight.shape and not torch.equal(cut, weight)


def test_terms_are_logged_by_name_raw_and_weighted():
    _, recorder = train_on_patch(stage([Logits(kappa=3.0)], steps=1), teacher=network(1))
    numbers = recorder.losses[0]
    assert set(numbers) == {"raw/pixel", "raw/logits", "weighted/pixel", "weighted/logits", "loss"}
    assert numbers["weighted/logits"] == pytest.approx(3 * numbers["raw/logits"])
    assert numbers["loss"] == pytest.approx(numbers["weighted/pixel"] + numbers["weighted/logits"])


def test_ema_warms_up_as_stated():
    start, moving = network(0), network(1)
    ema = EMA(start, decay=0.999, warmup=True)
    ema.update(moving)
    decay = 2 / 11
    for mean, old, new in zip(ema.network.parameters(), start.parameters(), moving.parameters(), strict=True):
        torch.testing.assert_close(mean, decay * old.detach() + (1 - decay) * new.detach())
    plain = EMA(start, decay=0.5, warmup=False)
    plain.update(moving)
    torch.testing.assert_close(plain.network.head.bias, 0.5 * (start.head.bias + moving.head.bias).detach())


def test_gradient_clipping_bounds_the_norm():
    state, _ = train_on_patch(stage([Scratch()], steps=1, clip=1e-4))
    norm = torch.stack([parameter.grad.norm() for parameter in state.student.parameters()]).norm()
    assert float(norm) <= 1.01e-4


def test_bf16_trains_in_bf16_and_keeps_fp32_weights():
    state, recorder = train_on_patch(stage([Scratch()], steps=30, rate=2e-3, precision="bf16"))
    _, exact = train_on_patch(stage([Scratch()], steps=1, rate=2e-3))
    assert recorder.losses[0]["loss"] != exact.losses[0]["loss"]
    assert recorder.losses[0]["loss"] == pytest.approx(exact.losses[0]["loss"], rel=0.02)
    assert recorder.losses[-1]["loss"] < recorder.losses[0]["loss"]
    assert {parameter.dtype for parameter in state.student.parameters()} == {torch.float32}
