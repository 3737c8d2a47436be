"""Methods against their formulas, presets against their schema."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compressor.base.errors import SrkdError, UsageError
from compressor.data.batches import Batch
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import build
from compressor.training.losses import compute_losses
from compressor.training.method import PlainMethod
from compressor.training.stage import Schedule
from compressor.training.state import State
from compressor.training.step import Runner, Step, StepNetworks
from recipes.catalogue import METHODS, RECIPES
from recipes.config.options import make_method
from recipes.config.reading import load_preset, read_preset


class Constant(nn.Module):
    """A 'network' that returns its one parameter for any input."""

    network = None

    def __init__(self, value: torch.Tensor) -> None:
        super().__init__()
        self.value = nn.Parameter(value)

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        return self.value


def step_of(s: torch.Tensor, y: torch.Tensor, t: torch.Tensor | None = None) -> tuple[Step, Constant]:
    student, teacher = Constant(s), None if t is None else Runner(Constant(t), trains=False)
    networks = StepNetworks([Runner(student, trains=True)], teacher)
    return Step(0, 0, Batch(torch.zeros(1, 3, 1, 1), y), networks), student


def total(name: str, step: Step, **options: object) -> torch.Tensor:
    method = make_method(name, options)
    return sum(method.weights[term] * value for term, value in method.terms(step).items())


def test_scratch_is_the_mean_absolute_difference():
    y = torch.tensor([0.0, 1.0, 0.5, 0.25]).reshape(1, 1, 2, 2)
    step, _ = step_of(torch.full((1, 1, 2, 2), 0.5), y)
    assert total("scratch", step).item() == pytest.approx((0.5 + 0.5 + 0 + 0.25) / 4)


def test_logits_forms_a_and_b():
    y, t, s = torch.tensor([0.2]), torch.tensor([0.6]), torch.tensor([0.3])
    step, _ = step_of(s, y, t)
    assert total("logits", step).item() == pytest.approx(0.1 + 0.3)
    assert total("logits", step, kappa=2.0).item() == pytest.approx(0.1 + 2 * 0.3)
    assert total("logits", step, form="B", alpha=0.25).item() == pytest.approx(0.75 * 0.1 + 0.25 * 0.3)
    assert total("logits", step).item() == pytest.approx(2 * total("logits", step, form="B").item())


def test_logits_has_its_dead_zone_between_target_and_teacher():
    """A known weakness: with y and t on both sides of s the two sign gradients cancel."""
    step, student = step_of(torch.tensor([0.5]), torch.tensor([0.2]), torch.tensor([0.9]))
    total("logits", step).backward()
    assert student.value.grad is not None and student.value.grad.item() == 0.0


def test_a_term_without_weight_is_refused():
    class Odd(PlainMethod):
        name, weights = "odd", {"pixel": 1.0}

        def terms(self, step):
            return {"pixel": step.student().sr.mean(), "forgotten": step.student().sr.sum()}

    step, _ = step_of(torch.zeros(1), torch.zeros(1))
    stage = load_preset("scratch").stage([Odd()])
    with pytest.raises(SrkdError, match="forgotten"):
        compute_losses(stage, State.fresh(build(EDSRSpec(scale=2, width=4, depth=1)), None, stage), step)


def test_every_method_has_a_preset():
    assert set(METHODS) <= set(RECIPES)


def test_a_patch_is_given_in_lr_or_in_hr_pixels():
    """CSD's patches have 192 HR pixels at every scale, those of other methods 48 LR pixels."""
    for name, expected in (("csd-paper", [96, 64, 48]), ("logits-paper", [48, 48, 48])):
        rules = [load_preset(name).at_scale(scale).schedule for scale in (2, 3, 4)]
        assert [rule.lr_patch for rule in rules] == expected and all(rule.hr_patch is None for rule in rules)
    text = "title: t\nsource: s\nmethods: [{name: scratch}]\nschedule:\n  batch: 2\n  lr_patch: 24\n  hr_patch: 96\n"
    with pytest.raises(UsageError, match=r"mine:7: .*hr_patch=96: .*lr_patch=24"):
        read_preset(text, "mine")
    assert load_preset("csd-paper", ("schedule.lr_patch=20",)).at_scale(2).schedule.lr_patch == 20
    assert load_preset("csd", ("schedule.hr_patch=96",)).at_scale(3).schedule.lr_patch == 32
    with pytest.raises(UsageError, match=r"hr_patch=192 .* 5: .*hr_patch=190"):
        load_preset("csd-paper").at_scale(5)


def test_steps_rescale_the_shape():
    schedule = load_preset("logits-paper").with_steps(250).stage([]).schedule
    assert schedule.steps == 250 and tuple(schedule.milestones) == (100, 200)
    assert [schedule.at(step) for step in (0, 99, 100, 200)] == pytest.approx([1e-4, 1e-4, 1e-5, 1e-6])


def test_cosine_falls_from_the_rate_to_zero_after_the_warmup():
    schedule = Schedule(steps=110, rate=1.0, decay="cosine", warmup=10)
    assert schedule.at(0) == pytest.approx(0.1) and schedule.at(9) == pytest.approx(1.0)
    assert schedule.at(60) == pytest.approx(0.5) and schedule.at(109) < 1e-3


def test_runner_reads_taps_and_answers_the_same_input_once():
    runner = Runner(build(EDSRSpec(scale=2, width=4, depth=2)), trains=True)
    lr = torch.rand(1, 3, 5, 5)
    first = runner(lr, ("head", "body[1]"))
    assert runner(lr, ("body[1]",)) is first and runner.forwards == 1
    assert tuple(first.features["head"].shape) == (1, 4, 5, 5)
    runner(torch.rand(1, 3, 5, 5), ())
    assert runner.forwards == 2


def test_inputs_of_one_size_run_in_one_pass():
    """Each output, and each count, is the same as if the input had run alone; the gradient is the sum of theirs."""
    network = build(EDSRSpec(scale=2, width=4, depth=2), seed=0)
    inputs = [torch.rand(count, 3, 5, 5) for count in (1, 2)]
    apart = [network(lr) for lr in inputs]
    expected = torch.autograd.grad(sum(sr.square().sum() for sr in apart), list(network.parameters()))
    sizes: list[int] = []
    network.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    runner = Runner(network, trains=True)
    runner.run_together(inputs)
    together = [runner(lr, ()).sr for lr in inputs]
    assert sizes == [3] and runner.forwards == 2
    for one, other in zip(together, apart, strict=True):
        torch.testing.assert_close(one, other)
    gradients = torch.autograd.grad(sum(sr.square().sum() for sr in together), list(network.parameters()))
    for gradient, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-4, atol=1e-6)


def test_inputs_that_cannot_run_in_one_pass_run_when_they_are_called():
    network = build(EDSRSpec(scale=2, width=4, depth=2))
    lr, other, small = torch.rand(1, 3, 5, 5), torch.rand(1, 3, 5, 5), torch.rand(1, 3, 4, 4)
    runner = Runner(network, trains=True)
    for inputs in ([lr], [lr, small]):
        runner.run_together(inputs)
        assert runner.forwards == 0
    runner(lr, ("head",))
    # From here on a feature of every step's first input is requested.
    runner.outputs.clear()
    runner.run_together([lr, other])
    assert runner.outputs == {} and "head" in runner(lr, ("head",)).features
    foreign = Runner(Constant(small), trains=False)
    foreign.run_together([lr, other])
    assert foreign.forwards == 0
