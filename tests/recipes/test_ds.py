"""Deep supervision: heads that supervise intermediate features, and leave no trace in the student."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from compressor.base.errors import UsageError
from compressor.data.batches import Batch
from compressor.models.networks.base import Network
from compressor.models.networks.carn import CARNSpec
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import build
from compressor.models.networks.swinir import SwinIRSpec
from compressor.models.networks.taps import read_taps
from compressor.training.loop import Trainer
from compressor.training.stage import Stage
from compressor.training.state import State
from compressor.training.step import Runner, Step, StepNetworks
from recipes.composition import refusals
from recipes.config.options import make_method
from recipes.config.reading import load_preset
from recipes.methods.ds import DeepSupervision
from recipes.methods.scratch import Scratch
from tests.support.method_runs import StubMethod
from tests.support.training import Recorder, SavingRecorder, network, smooth_patch, stage


def student(seed: int = 0, depth: int = 3) -> Network:
    return network(seed, depth=depth)


def step_of(network: Network, modules: nn.ModuleDict) -> Step:
    return Step(0, 0, smooth_patch(6).at(0), StepNetworks([Runner(network, trains=True)], modules=modules))


def run(one: Stage, depth: int = 3, recorder: Recorder | None = None) -> State:
    state = State.fresh(student(depth=depth), None, one, seed=5)
    Trainer([one], state, smooth_patch(6), None, recorder or Recorder(), seed=0).run()
    return state


def test_the_terms_are_the_formula() -> None:
    one, method = student(), DeepSupervision()
    modules = nn.ModuleDict({"ds": method.modules(None, one)})
    step = step_of(one, modules)
    terms = method.terms(step)
    with torch.no_grad(), read_taps(one, ("head", "body[0]", "body[1]")) as features:
        sr = one(step.lr)
        images = [
            head(features[f"body[{k}]"], features["head"])
            for k, head in enumerate(modules["ds"]["heads"])  # type: ignore[arg-type]
        ]
    torch.testing.assert_close(terms["pixel"].detach(), F.l1_loss(sr, step.hr))
    torch.testing.assert_close(terms["heads"].detach(), sum(F.l1_loss(image, step.hr) for image in images))
    assert method.weights == {"pixel": 1.0, "heads": 1.0}


def test_removing_the_heads_leaves_the_student_to_the_bit() -> None:
    state = run(stage([DeepSupervision()], steps=2, rate=1e-3))
    lr, trained = smooth_patch(6).batch.lr, state.student
    with torch.no_grad(), read_taps(trained, ("head", "rel(1/3)", "rel(2/3)")):
        beside = trained(lr)
    alone = build(trained.spec)
    alone.load_state_dict(trained.state_dict())
    with torch.no_grad():
        assert torch.equal(alone(lr), beside)
    assert {name for name, _ in state.averaged_network().named_parameters()} == {
        name for name, _ in alone.named_parameters()
    }
    assert len(list(state.modules["ds"].parameters())) > 0


def test_without_weight_it_is_scratch_to_the_bit_and_with_it_it_is_not() -> None:
    scratch, still, supervised = (
        run(stage([method], steps=3, rate=1e-3))
        for method in (Scratch(), DeepSupervision(head_weight=0.0), DeepSupervision())
    )
    assert still.student.fingerprint() == scratch.student.fingerprint() != supervised.student.fingerprint()


@pytest.mark.parametrize(("tap", "block"), [("rel(1/3)", 0), ("rel(2/3)", 1)])
def test_a_head_sends_no_gradient_behind_its_tap(tap: str, block: int) -> None:
    one, method = student(), DeepSupervision(taps=(tap,))
    step = step_of(one, nn.ModuleDict({"ds": method.modules(None, one)}))
    method.terms(step)["heads"].backward()
    names = {name.rsplit(".", 1)[0] for name, p in one.named_parameters() if p.grad is not None}
    assert names == {"head"} | {f"blocks.{k}.conv{c}" for k in range(block + 1) for c in (1, 2)}
    assert all(p.grad is not None for p in step.modules.parameters())


def test_heads_are_drawn_from_the_seed_and_differ() -> None:
    one = stage([DeepSupervision()], steps=1)
    first, again, other = (State.fresh(student(), None, one, seed=seed).modules["ds"] for seed in (1, 1, 2))
    weights = [[head.tail.weight for head in modules["heads"]] for modules in (first, again, other)]  # type: ignore[union-attr]
    assert torch.equal(weights[0][0], weights[1][0]) and torch.equal(weights[0][1], weights[1][1])
    assert not torch.equal(weights[0][0], weights[0][1]) and not torch.equal(weights[0][0], weights[2][0])


def test_thirty_steps_lower_the_loss_in_both_precisions() -> None:
    for precision in ("fp32", "bf16"):
        one, recorder = stage([DeepSupervision()], steps=30, rate=1e-3), Recorder()
        run(replace(one, mode=replace(one.mode, precision=precision)), recorder=recorder)  # type: ignore[arg-type]
        assert all(math.isfinite(row["loss"]) for row in recorder.losses)
        assert recorder.losses[-1]["loss"] < 0.7 * recorder.losses[0]["loss"]


def test_it_resumes_to_the_bit(tmp_path: Path) -> None:
    one = stage([DeepSupervision()], steps=4, rate=1e-3)
    straight = run(one, recorder=SavingRecorder(tmp_path / "state.pt", 2))
    resumed = State.fresh(student(), None, one, seed=9)
    resumed.load(tmp_path / "state.pt", [one], None)
    Trainer([one], resumed, smooth_patch(6), None, Recorder(), seed=0).run()
    for ours, theirs in ((resumed.student, straight.student), (resumed.modules, straight.modules)):
        expected = theirs.state_dict()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in ours.state_dict().items())


@pytest.mark.parametrize(
    "spec",
    [
        CARNSpec(3, width=4),
        SwinIRSpec(4, width=8, depths=(1, 1, 1), heads=(2, 2, 2), window=4, features=6),
        EDSRSpec(2, width=64, depth=3),
    ],
    ids=lambda spec: str(spec.arch),
)
def test_heads_fit_every_network(spec: CARNSpec | SwinIRSpec | EDSRSpec) -> None:
    one, method = build(spec, seed=0), DeepSupervision()
    modules = nn.ModuleDict({"ds": method.modules(None, one)})
    batch = Batch(torch.rand(1, 3, 5, 5), torch.rand(1, 3, 5 * spec.scale, 5 * spec.scale))
    terms = method.terms(Step(0, 0, batch, StepNetworks([Runner(one, trains=True)], modules=modules)))
    assert all(bool(torch.isfinite(term)) for term in terms.values())


def test_taps_are_options_and_are_checked_before_training() -> None:
    method = make_method("ds", {"taps": ["body[0]", "body_end"], "head_weight": 0.5})
    assert method.weights["heads"] == 0.5 and len(method.modules(None, student())["heads"]) == 2  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"did you mean 'body\[1\]'|there are head"):
        DeepSupervision(taps=("body[11]",)).fit(None, student())
    with pytest.raises(UsageError, match=r"rel\(1/3\).*use head"):
        DeepSupervision().fit(None, student(depth=2))
    with pytest.raises(UsageError, match=r"taps=\[\].*at least 1"):
        make_method("ds", {"taps": []})


def test_what_it_goes_with() -> None:
    for kind, goes in (("output", True), ("feature", True), ("data", True), ("joint", False), ("heads", False)):
        assert (refusals([DeepSupervision(), StubMethod("other", kind)]) == []) is goes  # type: ignore[arg-type]


def test_the_paper_preset_is_clsds_schedule() -> None:
    paper = load_preset("ds-paper").schedule
    assert (paper.steps, paper.rate, paper.batch) == (600_000, 2e-4, 16)
    assert (paper.milestones, paper.factor) == ((300_000,), 0.5)
    assert paper.precision == "fp32"
