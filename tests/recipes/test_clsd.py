"""CLSD-style: the heads of DS, with a contrast of their images through φ."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from compressor.base.errors import SrkdError, UsageError
from compressor.data.batches import Batch
from compressor.models.checkpoints.save import save_network
from compressor.models.networks.base import Network
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import build
from compressor.teachers.teacher import Teacher
from compressor.training.calibration import Calibrated
from compressor.training.footprint import BatchShape, footprint
from compressor.training.loop import Trainer
from compressor.training.state import State
from compressor.training.step import Runner, Step, StepNetworks
from recipes.composition import refusals
from recipes.config.options import make_method
from recipes.config.reading import load_preset
from recipes.methods.clsd import Clsd
from recipes.methods.ds import DeepSupervision
from recipes.methods.scratch import Scratch
from recipes.terms.contrast import bicubic_negatives
from recipes.terms.phi import bind_phi, resolve_phi
from srkd import compress
from tests.support.foreign_models import save_onnx, twin
from tests.support.method_runs import StubMethod
from tests.support.training import Recorder, SavingRecorder, network, smooth_patch, stage


def student(seed: int = 0) -> Network:
    return network(seed, depth=3)


def clsd(**options: object) -> Clsd:
    return Clsd(phi="teacher", **options)  # type: ignore[arg-type]


def step_of(method: Clsd, one: Network, teacher: Network, batch: Batch) -> Step:
    torch.manual_seed(1)
    modules = nn.ModuleDict({"clsd": method.modules(None, one)})
    networks = StepNetworks([Runner(one, trains=True)], modules=modules, helpers={"clsd": method.helpers(teacher, one)})
    return Step(0, 0, batch, networks)


def batch() -> Batch:
    torch.manual_seed(2)
    return Batch(torch.rand(3, 3, 6, 6), torch.rand(3, 3, 12, 12))


def trained(method: Clsd | DeepSupervision | Scratch, heads: nn.Module | None = None) -> State:
    one = stage([method], steps=3, rate=1e-3)
    state = State.fresh(student(), network(5), one, seed=5)
    if heads is not None:
        state.modules[method.name].load_state_dict(heads.state_dict())
    Trainer([one], state, smooth_patch(6), network(5), Recorder(), seed=0).run()
    return state


@pytest.mark.parametrize("pos", ["gt", "final"])
def test_the_contrast_is_the_formula(pos: str) -> None:
    one, teacher, sample = student(), network(5), batch()
    method = clsd(pos=pos)
    step = step_of(method, one, teacher, sample)
    contrast = method.terms(step)["heads_contrast"]
    phi = step.helpers["clsd"]["phi"]
    with torch.no_grad():
        features = step.student(taps=("head", "rel(1/3)", "rel(2/3)")).features
        heads = step.modules["clsd"]["heads"]  # type: ignore[index]
        expected = torch.zeros(())
        for head, tap in zip(heads, ("rel(1/3)", "rel(2/3)"), strict=True):  # type: ignore[arg-type]
            image = head(features[tap], features["head"])
            positive = sample.hr if pos == "gt" else one(sample.lr)
            sides = zip(phi(image), phi(positive), phi(bicubic_negatives(sample.lr, 2)), strict=True)
            for v, (a, p, n) in zip((1 / 4, 1), sides, strict=True):
                far = (n[None] - a[:, None]).abs().mean((0, 2, 3, 4)).sum()
                expected = expected + v * (a - p).abs().mean() / (far + 1e-7)
    torch.testing.assert_close(contrast.detach(), expected)


def test_without_contrast_it_is_ds_to_the_bit_and_with_it_it_is_not() -> None:
    state = State.fresh(student(), None, stage([DeepSupervision()], steps=3), seed=5)
    start = state.modules["ds"]
    ds, still, contrasted = (trained(method, start) for method in (DeepSupervision(), clsd(lam=0.0), clsd(lam=0.5)))
    assert ds.student.fingerprint() == still.student.fingerprint() != contrasted.student.fingerprint()


def test_without_any_weight_it_is_scratch_to_the_bit() -> None:
    still, scratch = trained(clsd(lam=0.0, head_weight=0.0)), trained(Scratch())
    assert still.student.fingerprint() == scratch.student.fingerprint()


@pytest.mark.parametrize("term", ["heads", "heads_contrast"])
def test_the_first_head_sends_no_gradient_behind_its_tap(term: str) -> None:
    method, one = clsd(taps=("rel(1/3)",)), student()
    method.terms(step_of(method, one, network(5), batch()))[term].backward()
    names = {name.rsplit(".", 1)[0] for name, p in one.named_parameters() if p.grad is not None}
    assert names == {"head", "blocks.0.conv1", "blocks.0.conv2"}


@pytest.mark.parametrize("pos", ["gt", "final"])
def test_the_contrast_teaches_heads_and_what_they_stand_on_but_not_the_positive_nor_phi(pos: str) -> None:
    one, teacher = student(), network(5)
    method = clsd(pos=pos)
    step = step_of(method, one, teacher, batch())
    method.terms(step)["heads_contrast"].backward()
    names = {name.split(".")[0] + name.split(".")[1] for name, p in one.named_parameters() if p.grad is not None}
    assert names == {"headweight", "headbias", "blocks0", "blocks1"}
    assert all(p.grad is not None for p in step.modules.parameters())
    assert all(p.grad is None for helper in step.helpers.values() for p in helper.parameters())


def test_lambda_is_calibrated_unless_it_is_given() -> None:
    assert clsd().weights["heads_contrast"] == Calibrated(0.2) and clsd(rho=0.3).weights[
        "heads_contrast"
    ] == Calibrated(0.3)
    assert clsd(lam=0.784).weights == {"pixel": 1.0, "heads": 1.0, "heads_contrast": 0.784}
    with pytest.raises(UsageError, match=r"rho=0\.5.*0\.3"):
        make_method("clsd", {"rho": 0.5})
    one, recorder = stage([clsd()], steps=20, rate=1e-4), Recorder()
    Trainer([one], State.fresh(student(), network(5), one), smooth_patch(6), network(5), recorder, seed=0).run()
    rows = recorder.losses
    expected = 0.2 * sum(row["raw/pixel"] for row in rows[:2]) / sum(row["raw/heads_contrast"] for row in rows[:2])
    assert rows[1]["weighted/heads_contrast"] == 0
    assert rows[2]["weighted/heads_contrast"] == pytest.approx(expected * rows[2]["raw/heads_contrast"])


def test_without_a_teacher_phi_is_made_of_the_embedded_ones_blocks() -> None:
    one = student()
    method = bind_phi([clsd()], resolve_phi("teacher"))[0]
    method.fit(None, one)
    phi = method.helpers(None, one)["phi"]
    assert phi.network.spec.width == 48 and phi.levels >= 1
    assert all(p.device.type == "cpu" and not p.requires_grad for p in phi.parameters())
    embedded = network(5)
    assert method.helpers(embedded, one)["phi"].network.spec == embedded.spec
    # a dry run, on shapes only, with and without a teacher
    main = replace(stage([method], steps=2))
    for teacher in (None, Teacher(embedded)):
        assert footprint(main, one.spec, teacher, BatchShape(2, 8)).memory.peak > 0


def test_phi_must_be_resolved_first() -> None:
    with pytest.raises(SrkdError, match=r"phi=auto of clsd.*bind_phi"):
        Clsd().helpers(None, student())


def test_it_resumes_to_the_bit_while_it_is_calibrated(tmp_path: Path) -> None:
    one, teacher = stage([clsd()], steps=30, rate=1e-3), network(5)
    one = replace(one, schedule=dataclasses.replace(one.schedule, steps=30))
    straight, saving = State.fresh(student(), teacher, one, seed=5), SavingRecorder(tmp_path / "state.pt", 2)
    Trainer([one], straight, smooth_patch(6), teacher, saving, seed=0).run()
    resumed = State.fresh(student(), teacher, one, seed=9)
    resumed.load(tmp_path / "state.pt", [one], teacher)
    Trainer([one], resumed, smooth_patch(6), teacher, Recorder(), seed=0).run()
    assert resumed.student.fingerprint() == straight.student.fingerprint()
    assert resumed.calibration == straight.calibration


def test_what_it_goes_with_and_what_it_refuses() -> None:
    for kind, goes in (("output", True), ("feature", True), ("joint", False), ("heads", False)):
        assert (refusals([clsd(), StubMethod("other", kind)]) == []) is goes  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"'body\[9\]'.*'body\[2\]'"):
        clsd(taps=("body[9]",)).fit(None, student())


def test_presets_say_style_and_the_papers_insists_on_vgg19() -> None:
    for name in ("clsd", "clsd-paper"):
        assert load_preset(name).title.startswith("CLSD-style")
    (paper,) = load_preset("clsd-paper").build_methods()
    assert isinstance(paper, Clsd) and paper.phi == "vgg19"


def test_the_label_as_image_of_a_head_has_no_contrast() -> None:
    one, sample = student(), batch()
    method = clsd()
    step = step_of(method, one, network(5), sample)
    assert method.contrast(step, [sample.hr], sample.hr).item() == 0  # type: ignore[list-item,arg-type]
    assert F.l1_loss(sample.hr, sample.hr) == 0  # type: ignore[arg-type]


def test_the_first_line_says_whose_blocks_it_looks_through(tmp_path: Path) -> None:
    settings = ("phi=teacher", "schedule.batch=2", "schedule.lr_patch=8", "lam=0.1", "negatives=1")
    shape, teacher_file = "edsr:width=4,depth=3,scale=2", tmp_path / "teacher.safetensors"
    save_network(build(EDSRSpec(scale=2, width=8, depth=2), seed=0), teacher_file)
    foreign = save_onnx(twin(), tmp_path / "teacher.onnx")
    texts = {
        None: "the embedded teacher's own first blocks (phi=teacher)",
        teacher_file: "the teacher's own first blocks (phi=teacher)",
        foreign: "the embedded teacher's own first blocks (phi=teacher)",
    }
    for number, (teacher, how) in enumerate(texts.items()):
        out, notes = tmp_path / f"run{number}", list[str]()
        compress(teacher, recipe="clsd", student=shape, steps=1, out=out, settings=settings, announce=notes.append)
        lines = [line for line in notes if line.startswith("phi: ")]
        if teacher == foreign:
            assert lines[1] == "phi: the embedded teacher's first blocks, as the ONNX teacher gives outputs only"
        else:
            assert lines == [f"phi: {how}"]
        assert json.loads((out / "run.json").read_text())["phi"]["how"] == how
