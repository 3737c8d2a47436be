"""Plain is Compact with ReLU up to the clip, and its branches are gone, without a trace, wherever it is deployed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from compressor.base.errors import UsageError
from compressor.models.checkpoints.load import load_checkpoint
from compressor.models.checkpoints.save import save_network
from compressor.models.fitting.fit import fit
from compressor.models.networks.compact import CompactSpec
from compressor.models.networks.cost import cost
from compressor.models.networks.plain import BranchedConv, PlainSpec
from compressor.models.networks.registry import build, quantise
from compressor.models.quantisation.description import Quantisation
from compressor.runtimes.torch_runtime import TorchRuntime
from tests.support.exports import export_file
from tests.support.slices import lively

BRANCHED = PlainSpec(2, width=6, depth=2, branches=True)


def test_plain_is_compact_with_relu_and_a_clip() -> None:
    for scale in (1, 3):
        plain = build(PlainSpec(scale, width=6, depth=2), seed=1)
        compact = build(CompactSpec(scale, width=6, depth=2, act="relu"), seed=2)
        compact.load_state_dict(plain.state_dict())
        lr = 4 * torch.rand(2, 3, 7, 5) - 2
        torch.testing.assert_close(plain(lr), compact(lr).clamp(0, 1), atol=1e-6, rtol=0)
        torch.testing.assert_close(plain.train()(lr), compact(lr), atol=1e-6, rtol=0)


@pytest.mark.parametrize("identity", [True, False])
def test_a_layer_is_the_sum_of_its_branches_up_to_the_border(identity: bool) -> None:
    torch.manual_seed(0)
    conv, x = BranchedConv(5, 5, identity=identity), torch.rand(2, 5, 6, 7)
    chain = conv.project(conv.middle(conv.expand(F.pad(x, [1] * 4))))
    expected = conv.main(x) + conv.point(x) + chain + (x if identity else 0)
    torch.testing.assert_close(conv(x), expected, atol=1e-5, rtol=0)
    weight, bias = conv.collapsed()
    assert weight.dtype == torch.float64
    torch.testing.assert_close(F.conv2d(x.double(), weight, bias, padding=1).float(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("act", ["relu", "prelu"])
def test_a_trained_student_is_deployed_without_branches(act: str) -> None:
    network = build(PlainSpec(2, width=6, depth=2, act=act, branches=True), seed=0).train()
    optimiser = torch.optim.Adam(network.parameters(), 1e-2)
    for _ in range(3):
        network(torch.rand(2, 3, 8, 8)).square().mean().backward()
        optimiser.step()
    assert all(parameter.grad is not None for parameter in network.parameters())
    deployed, lr = network.eval().deployed(), torch.rand(1, 3, 9, 11)
    assert deployed.spec == PlainSpec(2, width=6, depth=2, act=act) and deployed.deployed() is deployed
    other = build(network.spec, seed=5)
    other.fill(deployed)
    for same in (network, other, other.deployed()):
        torch.testing.assert_close(same(lr), deployed(lr), atol=1e-5, rtol=0)


def test_files_keep_branches_and_what_runs_has_none(tmp_path: Path) -> None:
    network = build(BRANCHED, seed=0)
    save_network(network, tmp_path / "branched.safetensors")
    loaded = load_checkpoint(tmp_path / "branched.safetensors").network
    assert loaded.fingerprint() == network.fingerprint() and loaded.spec == BRANCHED
    assert cost(BRANCHED) == cost(BRANCHED.deployed)
    assert cost(BRANCHED).params == network.deployed().params < network.params
    runtime = TorchRuntime(loaded, label="branched")
    assert runtime.spec == BRANCHED.deployed and runtime.network.params == cost(BRANCHED).params
    file = export_file(loaded, "onnx", tmp_path)
    assert file.verdict == "passed" and file.path is not None
    assert file.path.stat().st_size < 4 * network.params


def test_a_student_with_branches_is_solved_for() -> None:
    teacher, lr = lively(PlainSpec(2, width=12, depth=3)), torch.rand(8, 3, 12, 12)
    spec = PlainSpec(2, width=8, depth=2)
    solved, branched = (fit(teacher, each, lr) for each in (spec, PlainSpec(2, width=8, depth=2, branches=True)))
    torch.testing.assert_close(branched(lr), solved(lr), atol=1e-4, rtol=0)


def test_branches_are_not_quantised() -> None:
    with pytest.raises(UsageError, match="layers that exist only in training"):
        build(BRANCHED, quantisation=Quantisation("pams", bits=8))
    assert quantise(build(BRANCHED, seed=0), Quantisation("pams", bits=8)).spec == BRANCHED.deployed
