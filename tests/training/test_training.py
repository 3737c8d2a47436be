"""The training loop: it learns, is bitwise reproducible, resumes in any stage, and does not change the teacher."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from compressor.assets import embedded_teacher
from compressor.base.errors import SrkdError
from compressor.models.checkpoints.load import load_checkpoint
from compressor.models.networks.base import Network
from compressor.training.loop import Trainer
from compressor.training.method import Method, declares, fit_methods
from compressor.training.stage import Stage, with_other_stages
from compressor.training.state import EMA, State
from compressor.training.step import Step
from recipes.methods.logits import Logits
from recipes.methods.scratch import Scratch
from tests.support.training import Recorder, SavingRecorder, is_same, network, smooth_patch, stage, train_on_patch


def test_a_trained_network_makes_a_constant_image_of_a_constant_one():
    """This is a result of training: with random weights, neighbouring pixels after a pixel shuffle differ."""
    shade = 0.5
    with torch.no_grad():
        sr = load_checkpoint(embedded_teacher()).network(torch.full((1, 3, 32, 32), shade))
        drawn = network(0)(torch.full((1, 3, 32, 32), shade))
    assert (sr - sr.mean((2, 3), keepdim=True)).abs().max() < 1e-2 and (sr - shade).abs().max() < 1e-2
    assert (drawn - drawn.mean((2, 3), keepdim=True)).abs().max() > 1e-2


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


@dataclass(frozen=True)
class Two(Method):
    weights = {"pixel": 1.0}  # type: ignore[assignment]  # noqa: RUF012

    def terms(self, step: Step) -> dict[str, torch.Tensor]:
        return {"pixel": F.l1_loss(step.student().sr, step.hr)}


def test_a_method_of_weights_and_terms_trains() -> None:
    method = Two()
    one = stage([method], steps=3, rate=1e-3)
    assert (method.name, one.role, one.updates, one.segments, method.kind) == ("Two", "student", 1, "each", "pixel")
    assert fit_methods([method], None, network(0)) == (method,) and with_other_stages(one) == (one,)
    assert declares(method, "terms") and not declares(method, "kind")
    _, recorder = train_on_patch(one)
    assert len(recorder.losses) == 3 and recorder.losses[-1]["loss"] < recorder.losses[0]["loss"]


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
