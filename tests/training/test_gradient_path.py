"""A term without a gradient to the student is refused at step 1, by its name."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from compressor.base.errors import SrkdError
from compressor.models.networks.base import Network
from compressor.training.loop import Trainer
from compressor.training.state import State
from compressor.training.step import Step
from tests.support.training import Faulty, Recorder, network, smooth_patch, stage, train_on_patch


class Doubling(torch.autograd.Function):
    """A hand-written autograd function, like those of straight-through estimators."""

    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, gradient):
        return gradient * 2


class HasModule(Faulty):
    """A method whose term `still` is computed by `make` from the student's image and a module of the method."""

    def __init__(self, make: Callable[[Step, nn.Module], torch.Tensor]) -> None:
        super().__init__({})
        object.__setattr__(self, "make", make)
        object.__setattr__(self, "own", nn.Conv2d(3, 3, 1))

    def modules(self, teacher: Network | None, student: Network) -> nn.ModuleDict:
        return nn.ModuleDict({"own": self.own})

    def terms(self, step: Step) -> dict[str, torch.Tensor]:
        return {**super().terms(step), "still": self.make(step, self.own)}


def through_reentrant_checkpoint(step: Step, module: nn.Module) -> torch.Tensor:
    """Run the student inside a checkpoint, so that the recorded graph lacks its parameters."""
    entry = step.lr.clone().requires_grad_(True)
    inside = step._step_networks.students[0].network
    return checkpoint(lambda lr: inside(lr).mean(), entry, use_reentrant=True)


@pytest.mark.parametrize(
    "make",
    [
        lambda step, module: module(step.student().sr).mean(),
        lambda step, module: Doubling.apply(step.student().sr).mean(),
        lambda step, module: checkpoint(module, step.student().sr, use_reentrant=False).mean(),
        lambda step, module: checkpoint(module, step.student().sr, use_reentrant=True).mean(),
        lambda step, module: step.student(taps=("body[0]",)).features["body[0]"].mean(),
    ],
)
def test_terms_with_a_path_to_the_student_pass(make):
    _, recorder = train_on_patch(stage([HasModule(make)], steps=2))
    assert len(recorder.losses) == 2


@pytest.mark.parametrize(
    "make, why",
    [
        (lambda step, module: step.student().sr.detach().mean(), "it is computed without gradients"),
        (lambda step, module: torch.tensor(1.0), "it is computed without gradients"),
        (lambda step, module: module(step.student().sr.detach()).mean(), "its gradient ends elsewhere"),
        (lambda step, module: Doubling.apply(module(step.lr)).mean(), "its gradient ends elsewhere"),
        (through_reentrant_checkpoint, "its gradient ends elsewhere"),
    ],
)
def test_a_term_without_a_path_to_the_student_is_refused_by_name(make, why):
    one = stage([HasModule(make)], steps=3)
    state = State.fresh(network(0), None, one)
    before = [tensor.clone() for tensor in state.student.state_dict().values()]
    with pytest.raises(SrkdError, match=rf"the term still .*\({why}\)"):
        Trainer([one], state, smooth_patch(), None, Recorder(), seed=0).run()
    assert all(torch.equal(a, b) for a, b in zip(before, state.student.state_dict().values(), strict=True))
