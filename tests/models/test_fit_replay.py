"""Cached outputs of final modules: the same student, and time that only grows with the number of layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from compressor.models.fitting.feature_store import FeatureStore
from compressor.models.fitting.fit import fit
from compressor.models.fitting.replay import Replay
from compressor.models.networks.rcan import RCANSpec
from compressor.models.networks.registry import architecture
from tests.support.fit_patches import patches
from tests.support.slices import lively


@pytest.mark.ci
@pytest.mark.parametrize("name", ["rcan", "carn_m", "swinir"])
def test_a_student_is_the_same_without(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = lively(architecture(name).small)
    spec = teacher.spec.narrowed(0.5)
    expected = fit(teacher, spec, patches(9, side=12))
    monkeypatch.setattr(Replay, "_forward", lambda _self, _name, forward, *inputs: forward(*inputs))
    assert fit(teacher, spec, patches(9, side=12)).fingerprint() == expected.fingerprint()
    # The wrapping leaves no trace.
    assert not any("forward" in vars(module) for module in expected.modules())


def test_a_stage_of_twice_the_blocks_takes_twice_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    forward, calls = torch.nn.Conv2d.forward, [0]

    def counted(self: torch.nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
        calls[0] += 1
        return forward(self, x)

    def count(blocks: int) -> int:
        teacher = lively(RCANSpec(2, width=8, groups=1, depth=blocks, hidden=2))
        calls[0] = 0
        fit(teacher, teacher.spec.narrowed(0.5), patches(1, side=12))
        return calls[0]

    monkeypatch.setattr(torch.nn.Conv2d, "forward", counted)
    few, some, many = (count(blocks) for blocks in (2, 4, 8))
    assert many - some == 2 * (some - few)


def test_only_what_is_final_is_given_again() -> None:
    first, second, third = (torch.nn.Linear(1, 1, bias=False) for _ in range(3))
    network: Any = torch.nn.Sequential(torch.nn.Sequential(first, second), third)
    x = torch.ones(1, 1)

    def run() -> float:
        with replay.of(0):
            return float(network(x))

    with torch.no_grad(), FeatureStore() as store, Replay(network, store) as replay:
        for layer in (first, second, third):
            layer.weight.fill_(2.0)
        replay.begin(["0.1"])
        assert run() == 8
        assert len(replay.kept) == 1  # the first layer: the second one is unsolved, so later outputs may change
        second.weight.fill_(3.0)
        third.weight.fill_(5.0)
        assert run() == 30
        replay.unsolved.clear()
        assert run() == 30 and len(replay.kept) == 2  # the block, without its parts, and the third layer
        first.weight.fill_(7.0)
        assert run() == 30
        replay.begin([])
        assert run() == 105
