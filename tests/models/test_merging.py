"""Hidden units that are merged explain more of what their readers get than as many that are kept."""

from __future__ import annotations

from dataclasses import replace

import torch

from compressor.models.fitting.across import AcrossFit
from compressor.models.fitting.merging import merge, places_of, predicted
from compressor.models.networks.compact import CompactSpec
from compressor.models.networks.registry import architecture
from tests.support.fits import patches
from tests.support.slices import lively


def unexplained(units: torch.Tensor, mix: torch.Tensor, weights: torch.Tensor) -> float:
    """Return the share of what the readers get that a regression on act(mixᵀu) leaves."""
    wanted = weights.T.double() @ units.double().relu()
    given = (mix.T.double() @ units.double()).relu()
    wanted, given = (values - values.mean(1, keepdim=True) for values in (wanted, given))
    rest = wanted - torch.linalg.lstsq(given.T, wanted.T).solution.T @ given
    return float(rest.square().sum() / wanted.square().sum())


def some_units(count: int, pixels: int = 4096) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(3)
    hidden = torch.randn(5, pixels, generator=draw)
    return torch.randn(count, 5, generator=draw) @ hidden, torch.randn(count, 8, generator=draw)


def test_merged_units_explain_more_than_kept_ones() -> None:
    units, weights = some_units(24)
    start = (units.relu().var(1) * weights.square().sum(1)).argsort(descending=True)[:6].tolist()
    nothing = torch.zeros(0, units.shape[1])
    mix = merge(units, units, nothing, (weights @ weights.T).double(), torch.zeros(24), start)
    kept = unexplained(units, torch.eye(24)[:, start], weights)
    assert unexplained(units, mix, weights) < 0.9 * kept
    assert torch.equal(mix, merge(units, units, nothing, (weights @ weights.T).double(), torch.zeros(24), start))


def test_what_explains_all_already_stays() -> None:
    """Of four units two are others twice as large: half of them suffices."""
    half, weights = some_units(2)[0], torch.randn(4, 8, generator=torch.Generator().manual_seed(4))
    units, use = torch.cat([half, 2 * half]), (weights @ weights.T).double()
    mix = merge(units, units, torch.zeros(0, half.shape[1]), use, torch.zeros(4), [2, 3])
    assert unexplained(units, mix, weights) < 1e-4


def test_a_prediction_is_the_regression_on_what_is_around() -> None:
    around = torch.randn(7, 500, generator=torch.Generator().manual_seed(5))
    units = torch.randn(3, 7, generator=torch.Generator().manual_seed(6)) @ around + 2
    assert torch.allclose(predicted(units, around).float(), units, atol=1e-2)
    assert sorted(places_of(5, 4, 20, 1).tolist()) == list(range(20))


def test_a_student_with_merged_units_is_nearer() -> None:
    teacher, lr, apart = lively(replace(architecture("edsr").small, scale=2)), patches(32), patches(8, seed=12)
    errors = []
    for merges in (False, True):
        spec = CompactSpec(2, width=12, depth=1)
        student = AcrossFit(teacher, teacher, spec, lr, stream_share=0.4, merges_units=merges).solve()
        errors.append((student(apart) - teacher(apart)).square().mean())
    assert errors[1] < errors[0], errors
