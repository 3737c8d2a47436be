"""The training loop: it learns, is bitwise reproducible, and does not change the teacher."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from compressor.assets import embedded_teacher
from compressor.base.errors import SrkdError
from compressor.data.batches import Batch, Batches
from compressor.data.prepare import DataChoice, prepare_data
from compressor.models.checkpoints.load import load_checkpoint
from compressor.models.networks.base import Network
from compressor.models.students.students import build_student
from compressor.training.loop import Trainer
from compressor.training.run_folder import RunFolder
from compressor.training.stage import Stage
from compressor.training.state import EMA, State
from recipes.methods.logits import Logits
from recipes.methods.scratch import Inherit, Scratch
from tests.support.training import OnePatch, Recorder, network, smooth_patch, stage


def test_scratch_overfits_one_patch():
    recorder, one = Recorder(), stage([Scratch()], steps=400, rate=2e-3, decay="cosine")
    Trainer([one], State.fresh(network(0), None, one), smooth_patch(), None, recorder, seed=0).run()
    assert recorder.losses[0]["loss"] > 0.05
    assert recorder.losses[-1]["loss"] < 0.005


@pytest.mark.slow
def test_scratch_overfits_one_patch_of_a_photo():
    """48×48 LR pixels, L1 below 0.005 within 2000 steps."""
    store = prepare_data(DataChoice(), scale=2, lr_patch=48).train
    batch = Batches.for_store(store, batch=1, lr_patch=48, seed=0).at(0)
    recorder, one = Recorder(), stage([Scratch()], steps=2000, rate=2e-3, decay="cosine")
    state = State.fresh(network(0, width=32, depth=4), None, one)
    Trainer([one], state, OnePatch(batch.lr, batch.hr), None, recorder, seed=0).run()
    assert recorder.losses[0]["loss"] > 0.1
    assert recorder.losses[-1]["loss"] < 0.005


class Shades:
    """Batches of single-coloured and of smooth images, new in every step."""

    def at(self, step: int) -> Batch:
        torch.manual_seed(step)
        flat = torch.rand(4, 3, 1, 1).expand(-1, -1, 24, 24)
        smooth = nn.functional.interpolate(torch.rand(4, 3, 3, 3), size=24, mode="bicubic").clamp(0, 1)
        hr = torch.cat([flat, smooth])
        return Batch(nn.functional.avg_pool2d(hr, 2), hr)


def test_a_constant_image_becomes_a_constant_one():
    """This is a result of training: with random weights, neighbouring pixels after a pixel shuffle differ.

    Such a short run has not learnt the border, beyond which a network sees zeros.
    """
    one = stage([Scratch()], steps=300, rate=2e-3, decay="cosine")
    state = State.fresh(network(0), None, one)
    before = [constant_through(state.student, shade, border=16) for shade in (0.2, 0.5, 0.8)]
    Trainer([one], state, Shades(), None, Recorder(), seed=0).run()
    after = [constant_through(state.averaged_network(), shade, border=16) for shade in (0.2, 0.5, 0.8)]
    assert max(apart for apart, _ in after) < 1e-2 < min(apart for apart, _ in before)
    assert max(off for _, off in after) < 0.05 < max(off for _, off in before)


@pytest.mark.parametrize("shade", [0.05, 0.2, 0.5, 0.8, 0.95])
def test_a_network_that_was_trained_for_long_does_so_up_to_the_border(shade: float):
    apart, off = constant_through(load_checkpoint(embedded_teacher()).network, shade)
    assert apart < 1e-2 and off < 1e-2


def constant_through(network: Network, shade: float, border: int = 0) -> tuple[float, float]:
    """Return the variation of a constant image's output, and its distance from the input."""
    with torch.no_grad():
        sr = network(torch.full((1, 3, 32, 32), shade))
    inner = sr[..., border : sr.shape[-2] - border, border : sr.shape[-1] - border]
    return float((inner - inner.mean((2, 3), keepdim=True)).abs().max()), float((inner - shade).abs().max())


def test_an_inherited_student_learns_and_its_teacher_does_not():
    """The student is a slice of the teacher and shares nothing with it."""
    teacher = network(1, width=12).requires_grad_(False)
    before, student = teacher.fingerprint(), build_student(teacher, width=0.5)
    start, one = student.fingerprint(), stage([Inherit()], steps=10, rate=1e-3)
    state = State.fresh(student, teacher, one)
    Trainer([one], state, smooth_patch(), teacher, Recorder(), seed=0).run()
    assert teacher.fingerprint() == before
    assert state.student.fingerprint() != start
    for cut, weight in zip(build_student(teacher, width=0.5).parameters(), state.student.parameters(), strict=True):
        assert cut.shape == weight.shape and not torch.equal(cut, weight)


def run_twice_result(seed: int) -> tuple[list[dict[str, float]], dict[str, torch.Tensor]]:
    recorder, one = Recorder(), stage([Logits()], steps=5, rate=1e-3)
    teacher = network(1, width=12).requires_grad_(False)
    state = State.fresh(network(seed), teacher, one)
    Trainer([one], state, smooth_patch(), teacher, recorder, seed=0).run()
    return recorder.losses, state.ema.network.state_dict()


def test_the_same_seed_is_the_same_run_to_the_bit():
    (first, weights), (second, again), (other, _) = run_twice_result(3), run_twice_result(3), run_twice_result(4)
    assert first == second and first != other
    assert all(torch.equal(weights[name], again[name]) for name in weights)


def test_the_teacher_and_its_gradients_stay_untouched():
    teacher = network(1).requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    one = stage([Logits()], steps=10, rate=1e-3)
    Trainer([one], State.fresh(network(2), teacher, one), smooth_patch(), teacher, Recorder(), seed=0).run()
    assert all(torch.equal(before[name], tensor) for name, tensor in teacher.state_dict().items())
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_terms_are_logged_by_name_raw_and_weighted():
    recorder, one = Recorder(), stage([Logits(kappa=3.0)], steps=1)
    teacher = network(1)
    Trainer([one], State.fresh(network(2), teacher, one), smooth_patch(), teacher, recorder, seed=0).run()
    numbers = recorder.losses[0]
    assert set(numbers) == {"raw/pixel", "raw/logits", "weighted/pixel", "weighted/logits", "loss"}
    assert numbers["weighted/logits"] == pytest.approx(3 * numbers["raw/logits"])
    assert numbers["loss"] == pytest.approx(numbers["weighted/pixel"] + numbers["weighted/logits"])


def test_state_saved_and_loaded_continues_to_the_same_weights(tmp_path):
    def fresh(one: Stage) -> State:
        return State.fresh(network(5), None, one)

    whole = stage([Scratch()], steps=8, rate=1e-3)
    straight = fresh(whole)
    Trainer([whole], straight, smooth_patch(), None, Recorder(), seed=0).run()
    half = stage([Scratch()], steps=4, rate=1e-3)
    first = fresh(half)
    Trainer([half], first, smooth_patch(), None, Recorder(), seed=0).run()
    first.save(tmp_path / "state.pt")
    resumed = fresh(whole)
    resumed.load(tmp_path / "state.pt")
    assert resumed.done == 4
    Trainer([whole], resumed, smooth_patch(), None, Recorder(), seed=0).run()
    for one, other in ((resumed.student, straight.student), (resumed.ema.network, straight.ema.network)):
        expected = other.state_dict()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in one.state_dict().items())


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
    one = stage([Scratch()], steps=1, clip=1e-4)
    state = State.fresh(network(0), None, one)
    Trainer([one], state, smooth_patch(), None, Recorder(), seed=0).run()
    norm = torch.stack([parameter.grad.norm() for parameter in state.student.parameters()]).norm()
    assert float(norm) <= 1.01e-4


def test_bf16_trains_in_bf16_and_keeps_fp32_weights():
    recorder, one = Recorder(), stage([Scratch()], steps=30, rate=2e-3, precision="bf16")
    state = State.fresh(network(0), None, one)
    Trainer([one], state, smooth_patch(), None, recorder, seed=0).run()
    exact = Recorder()
    fp32 = stage([Scratch()], steps=1, rate=2e-3)
    Trainer([fp32], State.fresh(network(0), None, fp32), smooth_patch(), None, exact, seed=0).run()
    assert recorder.losses[0]["loss"] != exact.losses[0]["loss"]
    assert recorder.losses[0]["loss"] == pytest.approx(exact.losses[0]["loss"], rel=0.02)
    assert recorder.losses[-1]["loss"] < recorder.losses[0]["loss"]
    assert {parameter.dtype for parameter in state.student.parameters()} == {torch.float32}


def test_a_run_folder_is_never_written_over(tmp_path: Path):
    RunFolder(tmp_path / "run").write_facts({})
    with pytest.raises(SrkdError, match=r"--out .*/run .*choose another folder"):
        RunFolder(tmp_path / "run")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(SrkdError, match=r"--out .*/file .*choose another folder"):
        RunFolder(tmp_path / "file")


def test_metrics_are_json_lines(tmp_path: Path):
    folder = RunFolder(tmp_path / "run")
    folder.metrics("train", 3, {"loss": 0.5})
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"kind": "train", "step": 3, "loss": 0.5}]
    assert list((tmp_path / "run").glob("events.out.tfevents.*"))
