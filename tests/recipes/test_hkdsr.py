"""HKDSR: intermediate images through a network's own tail, both stages, bands and fusion."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from compressor.base.errors import SrkdError, UsageError
from compressor.data.batches import Batch
from compressor.models.networks.base import Network, Spec
from compressor.models.networks.carn import CARNSpec
from compressor.models.networks.compact import CompactSpec
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.rcan import RCANSpec
from compressor.models.networks.registry import build
from compressor.models.networks.swinir import SwinIRSpec
from compressor.models.students.students import StudentView
from compressor.training.loop import Trainer
from compressor.training.stage import Stage
from compressor.training.state import State
from compressor.training.step import Runner
from recipes.config.options import make_method
from recipes.config.reading import load_preset
from recipes.methods.hkdsr import Hkdsr, Tuning
from recipes.methods.logits import Logits
from srkd.runs.teacher_use import TeacherUse
from tests.support.method_runs import step_of
from tests.support.training import OnePatch, Recorder, smooth_patch

EDSR = EDSRSpec(2, width=8, depth=3)
PAIRS: list[tuple[Spec, Spec]] = [
    (EDSR, replace(EDSR, depth=1)),
    (RCANSpec(2, width=4, groups=3, depth=1, hidden=2), RCANSpec(2, width=4, groups=1, depth=1, hidden=2)),
    (
        SwinIRSpec(2, width=8, depths=(2, 2, 2), heads=(2, 2, 2), window=4, features=6),
        SwinIRSpec(2, width=8, depths=(2,), heads=(2,), window=4, features=6),
    ),
]


def patch(samples: int = 2, side: int = 8) -> Batch:
    torch.manual_seed(7)
    return Batch(torch.rand(samples, 3, side, side), torch.rand(samples, 3, 2 * side, 2 * side))


@pytest.mark.parametrize(("whole", "first"), PAIRS, ids=lambda spec: spec.arch)
def test_an_intermediate_image_is_what_a_network_without_the_later_blocks_gives(whole: Spec, first: Spec) -> None:
    """The size is no multiple of a window."""
    network = build(whole, seed=0)
    short = build(first, seed=1)
    short.load_state_dict({name: network.state_dict()[name] for name in short.state_dict()})
    lr = torch.rand(2, 3, 7, 10)
    forward = Runner(network, trains=True)(lr, (), ("body[0]", "body[1]", "rel(1)"))
    with torch.no_grad():
        assert torch.equal(forward.sr, network(lr))
        assert torch.allclose(forward.images["body[0]"], short(lr), atol=1e-6)
    assert forward.images["body[1]"].shape == forward.sr.shape
    assert not torch.allclose(forward.images["body[1]"], forward.sr, atol=1e-4)
    assert torch.equal(forward.images["rel(1)"], forward.sr)


def test_intermediate_images_cost_one_forward_and_have_the_gradients_they_should() -> None:
    network, lr = build(EDSR, seed=0), torch.rand(1, 3, 6, 6)
    runner = Runner(network, trains=True)
    forward = runner(lr, ("head",), ("body[0]",))
    assert runner(lr, (), ("body[0]",)) is forward and runner(lr, ("head",)) is forward and runner.forwards == 1
    forward.images["body[0]"].mean().backward()
    names = {name for name, parameter in network.named_parameters() if parameter.grad is not None}
    assert {"head.weight", "blocks.0.conv1.weight", "body_end.weight", "tail.weight"} <= names
    assert not any(name.startswith(("blocks.1", "blocks.2")) for name in names)
    assert not Runner(network, trains=False)(lr, (), ("body[0]",)).images["body[0]"].requires_grad


def test_a_student_inside_the_teacher_has_no_intermediate_images() -> None:
    inside = StudentView(build(EDSR), replace(EDSR, width=4))
    with pytest.raises(SrkdError, match=r"inside the teacher.*slice"):
        Runner(inside.skeleton, trains=True, forward=inside)(torch.rand(1, 3, 6, 6), (), ("body[0]",))


def test_the_terms_are_the_formula() -> None:
    """The formula is computed again, with the Haar bands as differences of 2×2 pixels."""
    student, teacher, batch = build(EDSR, seed=0), build(replace(EDSR, width=12), seed=1), patch()
    method = Hkdsr(teacher_taps=("body[0]", "body[2]"), student_taps=("body[1]", "body[2]"))
    step = step_of(method, student, teacher, batch)
    terms, gates = method.terms(step), step.modules["hkdsr"]["gates"]  # type: ignore[index]
    with torch.no_grad():
        images = []
        for network, taps in ((student, (1, 2, 2)), (teacher, (0, 2, 2))):
            shallow = network.stem(batch.lr)
            images.append([network.finish(network.blocks[: tap + 1](shallow), shallow, batch.lr) for tap in taps])
        bands = fusion = torch.zeros(())
        for image, target, gate in zip(*images, gates, strict=True):
            d = image - target
            a, b, c, e = (d[..., i::2, j::2] for i in (0, 1) for j in (0, 1))
            bands = bands + sum((x / 2).abs().mean() for x in (a + b - c - e, a - b + c - e, a - b - c + e))
            q = gate.shares(batch.hr, target)
            assert torch.allclose(q.sum(1), torch.ones(2, 1, 1))
            assert 1 / (1 + math.e) <= float(q.min()) <= float(q.max()) <= math.e / (1 + math.e)
            fusion = fusion + (image - q[:, :1] * batch.hr - q[:, 1:] * target).abs().mean()
        pixel = F.l1_loss(student(batch.lr), batch.hr)
    for name, expected in (("pixel", pixel), ("bands", bands), ("fusion", fusion)):
        torch.testing.assert_close(terms[name].detach(), expected, rtol=1e-5, atol=1e-7)


def test_weights_are_those_decided_and_those_of_the_code() -> None:
    method, code = Hkdsr(), make_method("hkdsr", {"compat": "hkdsr"})
    assert isinstance(code, Hkdsr) and method.shares(4, 4) == (1, 1, 1, 1) and code.shares(4, 4) == (4, 3, 2, 1)
    assert 0.0625 * sum(method.shares(4, 4)) == pytest.approx(0.025 * sum(code.shares(4, 4)))
    matrix = Hkdsr(fsm="matrix")
    assert matrix.shares(4, 4) == (0.8, 0.8, 0.8, 3.2) and matrix.shares(4, 2) == (0.0005, 0.0005, 0.0005, 0.0025)
    assert make_method("hkdsr", {"band_weight": 0.5}).weights["bands"] == 0.5


def test_windows_of_the_matrix_form_change_with_the_step_and_not_with_the_process() -> None:
    student, teacher, batch = build(EDSR, seed=0), build(EDSR, seed=1), patch(side=30)
    method = Hkdsr(fsm="matrix")
    steps = [step_of(method, student, teacher, batch, number=number) for number in (0, 0, 1)]
    bands = [method.terms(step)["bands"].item() for step in steps]
    assert bands[0] == bands[1] != bands[2]


@pytest.mark.parametrize(
    ("teacher", "student", "named"),
    [
        (CARNSpec(2, width=4), EDSR, "carn"),
        (EDSR, CARNSpec(2, width=4), "carn"),
        (EDSR, CompactSpec(2, 4, 3), "compact"),
    ],
)
def test_a_network_without_a_tail_behind_a_skip_is_refused(teacher: Spec, student: Spec, named: str) -> None:
    with pytest.raises(UsageError, match=f"{named} has no such"):
        Hkdsr().fit(build(teacher), build(student))


def test_what_cannot_be_paired_or_finished_is_refused_before_training() -> None:
    with pytest.raises(UsageError, match="2 of the teacher and 3"):
        make_method("hkdsr", {"teacher_taps": ["body[0]", "rel(1)"]})
    with pytest.raises(UsageError, match=r"compat=hkdsr.*fsm=matrix"):
        make_method("hkdsr", {"compat": "hkdsr", "fsm": "matrix"})
    for tap, wrong in (("body_end", "is none"), ("body[7]", "no tap"), ("rel(1/9)", "before the first")):
        with pytest.raises(UsageError, match=wrong):
            Hkdsr(teacher_taps=(tap,), student_taps=("rel(1)",)).fit(build(EDSR), build(EDSR))
    Hkdsr().fit(build(PAIRS[1][0]), build(PAIRS[2][0]))


def stages(steps: int = 6, **options: object) -> tuple[Stage, ...]:
    preset = load_preset("hkdsr", [f"schedule.steps={steps}", "schedule.rate=1e-3", "schedule.milestones=[]"])
    return preset.stages([Hkdsr(**options)])  # type: ignore[arg-type]


def run(both: tuple[Stage, ...], batches: OnePatch, recorder: Recorder) -> tuple[State, Network]:
    teacher, student = build(EDSR, seed=1), build(replace(EDSR, width=6), seed=0)
    state = State.fresh(student, teacher, both[0])
    Trainer(both, state, batches, teacher, recorder, seed=0).run()
    return state, teacher


def test_the_teachers_copy_is_tuned_first_and_teaches_then() -> None:
    both, recorder = stages(), Recorder()
    assert [(one.role, one.schedule.steps) for one in both] == [("teacher", 2), ("student", 6)]
    assert both[0].schedule.at(0) == both[0].schedule.at(1) == 1e-5
    state, teacher = run(both, smooth_patch(), recorder)
    assert teacher.fingerprint() == build(EDSR, seed=1).fingerprint() != state.networks["teacher"].fingerprint()
    assert recorder.losses[1]["raw/outputs"] < recorder.losses[0]["raw/outputs"]
    assert set(recorder.losses[2]) == {f"{kind}/{term}" for kind in ("raw", "weighted") for term in Hkdsr().weights} | {
        "loss"
    }
    # The first step of the second stage used the tuned copy.
    student = build(replace(EDSR, width=6), seed=0)
    step = step_of(Hkdsr(), student, state.networks["teacher"], smooth_patch().at(0))
    expected = float(Hkdsr().terms(step)["bands"].detach())
    assert recorder.losses[2]["raw/bands"] == pytest.approx(expected, rel=1e-5)
    assert [one.name for one in stages(tuning=0)] == ["distil"]


def test_tuning_is_the_sum_of_l1_over_all_outputs() -> None:
    teacher, batch = build(EDSR, seed=1), patch()
    method = Tuning(("rel(1/3)", "rel(1)"))
    loss = method.terms(step_of(method, teacher, None, batch))["outputs"]
    with torch.no_grad():
        shallow = teacher.stem(batch.lr)
        first = teacher.finish(teacher.blocks[:1](shallow), shallow, batch.lr)  # type: ignore[index,operator]
        expected = F.l1_loss(first, batch.hr) + 2 * F.l1_loss(teacher(batch.lr), batch.hr)
    torch.testing.assert_close(loss.detach(), expected)


def test_images_without_labels_are_labelled_by_the_teacher_as_it_came() -> None:
    unlabelled = smooth_patch()
    unlabelled.batch = replace(unlabelled.batch, hr=None)
    recorder = Recorder()
    state, teacher = run(stages(3), unlabelled, recorder)
    with torch.no_grad():
        hr = teacher(unlabelled.batch.lr)
    labelled = Recorder()
    run(stages(3), OnePatch(unlabelled.batch.lr, hr), labelled)
    assert recorder.losses[0]["raw/outputs"] == pytest.approx(labelled.losses[0]["raw/outputs"])
    assert state.role == "student"


def test_kept_outputs_of_the_teacher_as_it_came_are_not_those_of_the_one_that_teaches() -> None:
    with pytest.raises(UsageError, match=r"--teacher-cache .*hkdsr"):
        TeacherUse("mine", [Logits(), Hkdsr()], None, "teacher").require_cacheable()
    TeacherUse("mine", [Logits(), Hkdsr(tuning=0)], None, "original").require_cacheable()
