"""Calm: what moves and what noise is, what a calm student is, and the term by hand."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from compressor.data.batches import Batch
from compressor.images.metrics import as_in_a_file
from compressor.models.networks.base import Descriptor
from compressor.training.method import LaterStage
from compressor.training.stage import with_other_stages
from recipes.config.reading import load_preset
from recipes.methods.calm import Calm, normal_noise
from tests.support.method_runs import BATCH, LR_SIDE, StubMethod, Upscaler, Waves, step_of

SCALE = 2
INNER = (..., slice(LR_SIDE // 4, -1 - LR_SIDE // 4), slice(LR_SIDE // 4, -1 - LR_SIDE // 4))
"""The pixels of a patch that are compared."""


def batch() -> Batch:
    """Patches in 8 bit, as those of a run."""
    waves = Waves(SCALE).at(0)
    return Batch(as_in_a_file(waves.lr), waves.hr)


def term(method: Calm, student: nn.Module, *, number: int = 0, seed: int = 0) -> Tensor:
    return method.terms(step_of(method, student, None, batch(), number=number, seed=seed))["calm"]


def columns(large: Tensor) -> Tensor:
    """A picture that lies still in the frame, however its content moves: a thousandth a column."""
    return torch.arange(large.shape[-1]).div(1000).expand_as(large)


def test_a_student_that_ignores_noise_and_moves_is_calm() -> None:
    assert term(Calm(), Upscaler(gain=0.0)).item() == 0


def test_a_convolution_is_calm_when_pixels_move() -> None:
    """Its padding does not move, but the border is not compared: 3 of 12 pixels on each side, and it sees one."""
    torch.manual_seed(1)
    student = nn.Sequential(nn.Conv2d(3, 3 * SCALE**2, 3, padding=1), nn.PixelShuffle(SCALE))
    student.network, student.descriptor = None, Descriptor(scale=SCALE, receptive_radius=1)  # type: ignore[assignment]
    assert term(Calm(noise=0.0), student).item() < 1e-6 < term(Calm(), student).item()


def test_only_moves_by_hand() -> None:
    """Content that moves leaves no difference; what lies still in the frame leaves that of two columns."""
    assert term(Calm(noise=0.0), Upscaler()).item() == 0
    student = Upscaler(added=columns)
    value = term(Calm(noise=0.0), student)
    lr, other = student.inputs
    # A patch moved right if its second column became its first, perhaps also a row up.
    went_right = [
        any(torch.equal(after[:, 2:5, 0], before[:, 2 + down : 5 + down, 1]) for down in (0, 1))
        for before, after in zip(lr, other, strict=True)
    ]
    assert value.item() == pytest.approx(SCALE / 1000 * sum(went_right) / BATCH, abs=1e-7)
    assert term(Calm(noise=0.0, moves=False), Upscaler(added=columns)).item() == 0


def test_only_noise_by_hand() -> None:
    student = Upscaler(gain=0.5)
    value = term(Calm(moves=False), student)
    lr, other = student.inputs
    expected = 0.5 * (other - lr)[INNER].abs().mean()
    assert value.item() == pytest.approx(expected.item(), rel=1e-5) and value.item() > 0
    assert torch.equal(other, as_in_a_file(other)) and other.min() >= 0 and other.max() <= 1
    deviations = (other - lr).std(dim=(1, 2, 3)) * 255
    assert deviations.max() < 4.5 and deviations.min() < 0.6 * deviations.max()


def test_the_image_without_noise_is_the_target_and_gets_no_gradient() -> None:
    """d/dg mean|g·x' - sg(g·x)| = mean(sign(x' - x)·x'), not mean|x' - x|."""
    student = Upscaler()
    term(Calm(moves=False), student).backward()
    lr, other = student.inputs
    expected = (torch.sign(other - lr) * other)[INNER].mean()
    assert student.gain.grad is not None and student.gain.grad.item() == pytest.approx(expected.item(), abs=1e-6)


def test_draws_depend_on_seed_step_and_sample_alone() -> None:
    lr = torch.zeros(4, 3, 6, 6)
    first = normal_noise(lr, [1.0] * 4, seed=1, step=2, samples=range(4))
    assert torch.equal(first[2:], normal_noise(lr[:2], [1.0] * 2, seed=1, step=2, samples=range(2, 4)))
    others = [normal_noise(lr, [1.0] * 4, seed=seed, step=step, samples=range(4)) for seed, step in ((1, 3), (2, 2))]
    assert not any(torch.equal(first, other) for other in others)
    values = [
        term(Calm(), Upscaler(added=columns), number=number, seed=seed).item()
        for number, seed in ((0, 0), (0, 0), (1, 0), (0, 1))
    ]
    assert values[0] == values[1] and len(set(values)) == 3


def test_it_stays_in_later_stages() -> None:
    """Beside the method that has one; other methods end with the main stage."""

    class Two(StubMethod):
        def later_stages(self) -> Sequence[LaterStage]:
            return (LaterStage("later", 0.5, 1e-4, lambda began, steps: StubMethod(f"after {began}", "looks")),)

    main = load_preset("scratch").with_steps(10).stage([Two("two", "looks"), StubMethod("other", "feature"), Calm()])
    stages = with_other_stages(main)
    assert [[method.name for method in stage.methods] for stage in stages] == [
        ["two", "other", "calm"],
        ["after 5", "calm"],
    ]


def test_each_of_the_two_images_is_made_once_and_without_weight_neither() -> None:
    """The recipe's own loss asks for the first one, too. There is no teacher."""
    student, method = Upscaler(), Calm()
    step = step_of(method, student, None, batch())
    first = step.student().sr
    method.terms(step)
    assert len(student.inputs) == 2 and step.student().sr is first
    idle, none = Upscaler(), Calm(weight=0.0)
    assert none.weights == {} and none.terms(step_of(none, idle, None, batch())) == {} and not idle.inputs
