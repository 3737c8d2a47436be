"""Stages run in order, resume in the middle of any, and do not change a frozen teacher."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from compressor.base.errors import SrkdError
from compressor.models.networks.base import Network
from compressor.training.loop import Trainer
from compressor.training.stage import Stage
from compressor.training.state import State
from compressor.training.step import Step
from recipes.methods.logits import Logits
from recipes.methods.scratch import Scratch
from tests.support.training import Recorder, SavingRecorder, is_same, network, smooth_patch, stage


class Tinted(Scratch):
    """Scratch with a module of its own."""

    def modules(self, teacher: Network | None, student: Network) -> nn.ModuleDict:
        torch.manual_seed(3)
        return nn.ModuleDict({"tint": nn.Conv2d(3, 3, 1)})


def two_stages() -> tuple[Stage, Stage]:
    return (
        stage([Tinted(name="first")], steps=4, rate=1e-3),
        stage([Logits(), Tinted(name="second")], steps=6, rate=2e-3, decay="cosine"),
    )


@pytest.mark.parametrize("at", [2, 7])
def test_two_stages_resume_in_the_middle_of_either(at: int, tmp_path: Path):
    stages, teacher = two_stages(), network(1).requires_grad_(False)
    straight, recorder = State.fresh(network(0), teacher, stages[0]), SavingRecorder(tmp_path / "state.pt", at)
    Trainer(stages, straight, smooth_patch(), teacher, recorder, seed=0).run()
    assert (straight.done, straight.stage, straight.began) == (10, 1, 4)
    assert straight.ema.updates == 6 and set(straight.modules) == {"first", "logits", "second"}
    assert recorder.rates[:4] == [1e-3] * 4 and recorder.rates[4] == pytest.approx(2e-3)
    assert set(recorder.losses[3]) < set(recorder.losses[4])

    resumed = State.fresh(network(0), teacher, stages[0])
    resumed.load(tmp_path / "state.pt", stages, teacher)
    assert (resumed.done, resumed.stage) == (at, int(at > 4))
    again = Recorder()
    Trainer(stages, resumed, smooth_patch(), teacher, again, seed=0).run()
    assert is_same(resumed, straight) and again.losses == recorder.losses[at:]
    assert resumed.modules["first"]["tint"].weight.equal(straight.modules["first"]["tint"].weight)


class Careless(Logits):
    """A method that wrongly changes the frozen teacher."""

    def terms(self, step: Step) -> dict[str, torch.Tensor]:
        with torch.no_grad():
            next(step._step_networks.teacher.network.parameters()).view(-1)[0] += 1e-3
        return super().terms(step)


def test_a_teacher_that_changes_in_a_stage_that_freezes_it_is_told():
    stages = (stage([Logits()], steps=2), stage([Careless()], steps=1))
    teacher = network(1).requires_grad_(False)
    state = State.fresh(network(0), teacher, stages[0])
    with pytest.raises(SrkdError, match="changed in stage 'distil'"):
        Trainer(stages, state, smooth_patch(), teacher, Recorder(), seed=0).run()
    assert state.done == 3
