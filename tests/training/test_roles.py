"""The roles of a stage: it trains the student, a copy of the teacher, or that copy with the students inside it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from compressor.base.errors import SrkdError
from compressor.models.networks.base import Network
from compressor.models.students.students import cut_student
from compressor.training.calibration import Calibrated, TermCalibration, calibration_steps
from compressor.training.loop import Trainer
from compressor.training.method import Kind, Method
from compressor.training.stage import Stage
from compressor.training.state import State
from compressor.training.step import Step
from recipes.methods.logits import Logits
from recipes.methods.scratch import Scratch
from tests.support.training import Recorder, SavingRecorder, is_same, network, smooth_patch, stage, train_on_patch


@dataclass(frozen=True)
class Together(Method):
    """Students inside the teacher, all on the pixel loss; the teacher's own image is a target without gradient."""

    name: str = "together"
    kind: Kind = "joint"
    weights: Mapping[str, float] = field(default_factory=lambda: {"students": 1.0, "teacher": 1.0, "pull": 0.1})

    def terms(self, step: Step) -> dict[str, torch.Tensor]:
        students = [step.student(branch=branch).sr for branch in range(step.branches)]
        return {
            "students": torch.stack([F.l1_loss(sr, step.hr) for sr in students]).sum(),
            "teacher": F.l1_loss(step.teacher().sr, step.hr),
            "pull": F.l1_loss(students[0], step.teacher().sr.detach()),
        }


class StudentOnly(Together):
    """The student's pixel loss alone."""

    def terms(self, step: Step) -> dict[str, torch.Tensor]:
        return {"students": F.l1_loss(step.student().sr, step.hr)}


def joint(steps: int = 6, **options: object) -> Stage:
    return stage([Together(**options)], steps=steps, rate=1e-3)  # type: ignore[arg-type]


def student_in(teacher: Network, width: float = 0.5) -> Network:
    return cut_student(teacher, teacher.spec.narrowed(width))


def test_a_student_inside_the_teacher_is_its_slice_after_training_too():
    teacher = network(1)
    one, before = joint(), teacher.fingerprint()
    state = State.fresh(student_in(teacher), teacher, one)
    train_on_patch(one, state, teacher)
    assert teacher.fingerprint() == before, "a copy is trained, not what was loaded"
    assert state.networks["joint"].fingerprint() != before
    averaged = state.averaged_network()
    assert averaged.spec == state.student.spec
    expected = cut_student(state.ema.network, state.student.spec)
    assert averaged.fingerprint() == expected.fingerprint()


def test_every_gradient_lands_in_the_teacher_and_the_cut_off_rows_get_none_from_the_student():
    teacher = network(1)
    one = replace(joint(steps=1), methods=[StudentOnly(weights={"students": 1.0})])
    state = State.fresh(student_in(teacher), teacher, one)
    train_on_patch(one, state, teacher)
    before, after = teacher.state_dict(), state.networks["joint"].state_dict()
    weight = next(name for name in before if before[name].dim() == 4 and before[name].shape[:2] == (8, 8))
    changes = (after[weight] != before[weight]).flatten(2).any(-1)
    assert changes[:4, :4].any() and not changes[4:].any() and not changes[:, 4:].any()
    assert state.student.fingerprint() == student_in(teacher).fingerprint(), "it has no second copy that trains"


def test_one_joint_step_is_the_step_of_a_slice_that_is_trained_alone():
    """With only the student's pixel loss, the kept slice moves as the extracted student would."""
    teacher = network(1)
    inside = replace(joint(steps=3), methods=[StudentOnly(weights={"students": 1.0})])
    alone = stage([Scratch()], steps=3, rate=1e-3)
    state, other = State.fresh(student_in(teacher), teacher, inside), State.fresh(student_in(teacher), None, alone)
    train_on_patch(inside, state, teacher)
    train_on_patch(alone, other)
    cut = cut_student(state.networks["joint"], state.student.spec)
    for (name, a), b in zip(cut.state_dict().items(), other.student.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, atol=2e-6, rtol=1e-5, msg=name)


def tuned_first() -> tuple[Stage, Stage]:
    first = replace(stage([Scratch(name="tuning")], steps=4, rate=1e-3), tunes_teacher=True)
    return first, stage([Logits()], steps=4, rate=1e-3)


@pytest.mark.parametrize("at", [2, 6])
def test_a_teacher_is_tuned_and_then_teaches(at: int, tmp_path: Path):
    stages, teacher = tuned_first(), network(1, width=12)
    before = teacher.fingerprint()
    straight, recorder = State.fresh(network(0), teacher, stages[0]), SavingRecorder(tmp_path / "state.pt", at)
    Trainer(stages, straight, smooth_patch(), teacher, recorder, seed=0).run()
    assert teacher.fingerprint() == before != straight.networks["teacher"].fingerprint()
    assert straight.role == "student" and straight.averaged_network() is straight.ema.network
    patch = smooth_patch().at(0)
    with torch.no_grad():
        target = straight.networks["teacher"](patch.lr)
        student = network(0)(patch.lr)
    assert recorder.losses[4]["raw/logits"] == pytest.approx(float(F.l1_loss(student, target)), rel=1e-5)

    resumed = State.fresh(network(0), teacher, stages[0])
    resumed.load(tmp_path / "state.pt", stages, teacher)
    Trainer(stages, resumed, smooth_patch(), teacher, Recorder(), seed=0).run()
    assert is_same(resumed, straight)


def test_a_stage_for_a_teacher_that_is_not_there_is_refused():
    with pytest.raises(SrkdError, match=r"'distil' .*add --teacher FILE"):
        State.fresh(network(0), None, tuned_first()[0])


@dataclass(frozen=True)
class InParts(Scratch):
    updates: int = 2
    name: str = "parts"

    def terms(self, step: Step) -> dict[str, torch.Tensor]:
        return {"pixel": (step.part + 1) * F.l1_loss(step.student().sr, step.hr)}


def test_the_second_update_of_a_step_adds_to_the_first_ones_gradient():
    """As in DUKD's code, the second update moves by g1(θ0) + g2(θ1). Tested with plain gradient descent."""
    one = stage([InParts()], steps=1, rate=1e-2)
    state = State.fresh(network(0), None, one)
    parameters = list(state.trained_network.parameters())
    state.optimiser = torch.optim.SGD(parameters, lr=1e-2)  # type: ignore[assignment]
    train_on_patch(one, state)
    other, patch = network(0), smooth_patch().at(0)
    total = [torch.zeros_like(p) for p in other.parameters()]
    for factor in (1.0, 2.0):
        gradients = torch.autograd.grad(factor * F.l1_loss(other(patch.lr), patch.hr), list(other.parameters()))
        with torch.no_grad():
            for p, g, t in zip(other.parameters(), gradients, total, strict=True):
                t.add_(g)
                p.sub_(1e-2 * t)
    for a, b in zip(parameters, other.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-7, rtol=1e-5)
    assert state.ema.updates == 1 and state.done == 1


@dataclass(frozen=True)
class Weighed(Scratch):
    name: str = "weighed"
    weights: Mapping[str, float | Calibrated] = field(default_factory=lambda: {"pixel": 1.0, "extra": Calibrated(0.2)})

    def terms(self, step: Step) -> dict[str, torch.Tensor]:
        return {**super().terms(step), "extra": 50 * step.student().sr.square().mean()}


def test_a_weight_is_calibrated_to_its_share_and_frozen():
    state, recorder = train_on_patch(stage([Weighed()], steps=40, rate=1e-4))
    rows = recorder.losses
    assert [calibration_steps(n) for n in (3, 40, 1000, 25_000)] == [1, 4, 100, 100]
    assert all(row["weighted/extra"] == 0 for row in rows[:4]) and rows[4]["weighted/extra"] > 0
    expected = 0.2 * sum(row["raw/pixel"] for row in rows[:4]) / sum(row["raw/extra"] for row in rows[:4])
    assert state.calibration.weights == {"extra": pytest.approx(expected)}
    assert {round(row["weighted/extra"] / row["raw/extra"], 9) for row in rows[4:]} == {round(expected, 9)}
    assert recorder.notes == [f"weight of extra: {expected:.6g}, calibrated over 4 steps"]


@pytest.mark.parametrize("at", [2, 9])
def test_calibration_survives_a_resume(at: int, tmp_path: Path):
    one = stage([Weighed()], steps=40, rate=1e-4)
    straight, recorder = State.fresh(network(0), None, one), SavingRecorder(tmp_path / "state.pt", at)
    Trainer([one], straight, smooth_patch(), None, recorder, seed=0).run()
    resumed = State.fresh(network(0), None, one)
    resumed.load(tmp_path / "state.pt", [one], None)
    train_on_patch(one, resumed)
    assert resumed.calibration == straight.calibration and is_same(resumed, straight)


def test_a_term_of_zero_cannot_be_calibrated():
    with pytest.raises(SrkdError, match=r"weight of extra .*--set, under the name"):
        TermCalibration().update({"pixel": 1.0, "extra": 0.0}, {"pixel": 1.0, "extra": Calibrated()}, steps=1)


@dataclass(frozen=True)
class Looking(Scratch):
    """A frozen helper between the image and the loss, and a module initialised by torch's own initialiser."""

    name: str = "looking"
    weights: Mapping[str, float] = field(default_factory=lambda: {"seen": 1.0})

    def modules(self, teacher: Network | None, student: Network) -> nn.ModuleDict:
        return nn.ModuleDict({"tint": nn.Conv2d(3, 3, 1)})

    def helpers(self, teacher: Network | None, student: Network) -> nn.ModuleDict:
        torch.manual_seed(5)
        return nn.ModuleDict({"lens": nn.Conv2d(3, 4, 3)})

    def terms(self, step: Step) -> dict[str, torch.Tensor]:
        tint, lens = step.modules[self.name]["tint"], step.helpers[self.name]["lens"]
        return {"seen": F.l1_loss(lens(tint(step.student().sr)), lens(step.hr))}


def test_helpers_are_frozen_and_not_saved_and_modules_are_drawn_from_the_seed():
    one = stage([Looking()], steps=2, rate=1e-3)
    torch.manual_seed(1)
    first = State.fresh(network(0), None, one, seed=4)
    torch.manual_seed(2)
    second, third = State.fresh(network(0), None, one, seed=4), State.fresh(network(0), None, one, seed=5)
    weights = [state.modules["looking"]["tint"].weight for state in (first, second, third)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    before = copy.deepcopy(weights[0])
    train_on_patch(one, first)
    assert not torch.equal(weights[0], before)
    assert not any("lens" in name for name in first.state_dict()["modules"])
    assert sum(len(group["params"]) for group in first.optimiser.param_groups) == 2 + len(
        list(first.student.parameters())
    )


def test_a_student_of_another_kind_cannot_live_inside_the_teacher():
    teacher, one = network(1), joint(steps=1)
    with pytest.raises(SrkdError):
        train_on_patch(one, State.fresh(network(0, width=16), teacher, one), teacher)
