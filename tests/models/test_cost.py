"""Parameters and MACs equal those of the official classes to the last digit, without the memory of an image."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from compressor.models.networks.base import Spec
from compressor.models.networks.carn import CARNSpec
from compressor.models.networks.carn_m import CARNMSpec
from compressor.models.networks.compact import CompactSpec
from compressor.models.networks.cost import cost, layer_costs, pixel_bytes
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.image_cost import Cost
from compressor.models.networks.rcan import RCANSpec
from compressor.models.networks.registry import build
from compressor.models.networks.span import SPANSpec
from compressor.models.networks.spanf3 import SPANF3Spec
from compressor.models.networks.swinir import SwinIRSpec
from tests.support.networks import VARIANTS, label, noise, tiny_networks
from tests.support.published_counts import (
    CLASSICAL,
    COMPACT_PARAMS,
    COUNTED,
    DIRECT,
    HR_720P,
    OFFICIAL,
    RRDBNET,
    SCALES,
    SPANF3_PARAMS,
)
from tests.support.tensors import PeakMemory


def test_the_table_of_counts() -> None:
    """Networks whose official class is counted below are compared with that count; the others are counted at ×4."""
    official = {spec: (params, macs) for spec, params, macs, _ in OFFICIAL}
    for row in COUNTED:
        for at, scale in enumerate(SCALES):
            spec = row.at(scale)
            if spec in official or scale == 4:
                params, macs = official.get(spec) or (cost(spec).params, cost(spec).macs)
                assert row.params is None or params == row.params[at], row.name
                assert row.gmacs is None or abs(macs / 1e9 - row.gmacs[at]) < 0.0101, row.name
        assert row.params or all(row.at(scale) in official for scale in SCALES), row.name
        assert row.gmacs_plus_x4 in (None, round(cost(row.at(4)).macs_plus / 1e9, 2)), row.name


def test_the_counts_of_span_spanf3_and_rrdbnet() -> None:
    for spec, params in SPANF3_PARAMS.items():
        assert cost(spec).params == params, spec
    for spec, (params, gmacs) in RRDBNET.items():
        counted = cost(spec)
        assert (counted.params, round(counted.macs / 1e9, 2)) == (params, gmacs), spec
    by_torch: dict[Spec, float] = {
        SPANSpec(width=48): 27.87,
        SPANSpec(width=52): 32.58,
        SPANSpec(width=28): 9.83,
        SPANSpec(width=26): 8.54,
        SPANF3Spec(2, 64, 8, unshuffle=2): 15.87,
        SPANF3Spec(2, 48, 6, unshuffle=2): 6.92,
        SPANF3Spec(4, 48, 6): 27.42,
        SPANF3Spec(1, 48, 6, unshuffle=4): 1.79,
    }
    for spec, gmacs in by_torch.items():
        assert round(cost(spec).macs / 1e9, 2) == gmacs, spec


@pytest.mark.ci
def test_the_official_classes_to_the_last_digit() -> None:
    for spec, params, macs, _ in OFFICIAL:
        assert cost(spec) == Cost(params, macs, macs + extra(spec, 256 * 256), (256, 256)), spec


SOME = [row for row in OFFICIAL if row[0].scale == 3 or row[0].arch in ("carn", "carn_m")]
OTHERS = [pytest.param(row, marks=pytest.mark.slow) for row in OFFICIAL if row not in SOME]


@pytest.mark.parametrize("official", [*SOME, *OTHERS], ids=lambda official: f"{official[0].arch}-x{official[0].scale}")
def test_the_official_classes_at_720p(official: tuple[Spec, int, int, int]) -> None:
    spec, _, _, macs_720p = official
    assert cost(spec, HR_720P[spec.scale]).macs == macs_720p


def extra(spec: Spec, pixels: int) -> int:
    """Return one operation per element that the attention pools, five per element of a LayerNorm."""
    if isinstance(spec, RCANSpec):
        return spec.groups * spec.depth * spec.width * pixels
    if isinstance(spec, SwinIRSpec):
        return 5 * (2 * sum(spec.depths) + 2) * spec.width * pixels
    return 0


@pytest.mark.ci
def test_padding_is_counted() -> None:
    """SwinIR pads to the next multiple of its window; only the crop at its tail costs nothing."""
    assert cost(DIRECT, (25, 33)).macs == cost(DIRECT, (32, 40)).macs > cost(DIRECT, (24, 32)).macs


def test_compact_by_hand() -> None:
    spec = CompactSpec(4, width=64, depth=16)
    weights = 9 * (3 * 64 + 16 * 64 * 64 + 64 * 48)
    assert cost(spec, (10, 7)).macs == weights * 70
    assert cost(spec).params == weights + 17 * (64 + 64) + 48 == COMPACT_PARAMS


def test_a_network_costs_what_its_spec_costs_without_mean_shift() -> None:
    network = build(CARNMSpec(3, 8), seed=0)
    assert cost(network, (20, 10)) == cost(network.spec, (20, 10))
    assert cost(network).params == sum(parameter.numel() for parameter in network.parameters())
    assert cost(CARNSpec(4, 8)) == cost(CARNSpec(4, 8, mean_shift="file"))


@pytest.mark.ci
@pytest.mark.parametrize(
    ("spec", "params"), [(RCANSpec(4), 15_592_355), (replace(CLASSICAL, scale=4), 11_900_199)], ids=["rcan", "swinir"]
)
def test_large_networks_take_no_memory(spec: Spec, params: int) -> None:
    for arch in (RCANSpec(2, 4, 1, 1, 1), SwinIRSpec(2, 4, (1,), (1,), 2)):
        cost(arch, (5, 5))  # exclude torch's imports on the first call
    rng = torch.random.get_rng_state()
    for size in ((3840, 2160), (3838, 2158)):
        with PeakMemory() as memory:
            assert cost(spec, size).params == params
    assert memory.peak_bytes < 400_000
    assert torch.equal(rng, torch.random.get_rng_state())


@pytest.mark.parametrize("spec", [*tiny_networks(), *VARIANTS], ids=label)
def test_layers_add_up_to_what_torch_counts_of_the_network(spec: Spec) -> None:
    rows, network = layer_costs(spec, (13, 9)), build(spec.deployed)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(noise(spec, 9, 13))
    is_kept = spec.to_dict().get("mean_shift") == "file"
    shifts = 9 * 13 * 9 * (1 + spec.scale**2) if is_kept else 0
    assert sum(row.params for row in rows) == cost(spec).params == network.params
    assert sum(row.macs for row in rows) == cost(spec, (13, 9)).macs == counter.get_total_flops() // 2 - shifts
    assert min(row.macs for row in rows) >= 0
    assert len({row.name for row in rows}) == len(rows)


def test_a_layers_cost_by_hand() -> None:
    rows = {row.name: row for row in layer_costs(CARNMSpec(2, width=8), (10, 6))}
    shared = rows["cascade.steps.1.steps.0.conv1"]
    assert (shared.kind, shared.params) == ("Conv2d", 8 * 2 * 9 + 8)
    assert shared.macs == 3 * 8 * 2 * 9 * 60, "the shared block runs three times"
    assert rows["exit"].macs == 8 * 3 * 9 * 240
    attention = {
        row.name: row
        for row in layer_costs(SwinIRSpec(2, width=8, depths=(2, 2), heads=(2, 2), window=4, features=6), (8, 4))
    }["groups.0.layers.0.attention"]
    assert attention.params == 7 * 7 * 2
    assert attention.macs == 2 * 2 * (16 * 16 * 8), "two windows; q·k and a·v: 16 by 16 positions, 8 channels"


def test_the_memory_of_a_pixel_does_not_count_weights() -> None:
    """Deeper networks have more weights, and maps that are as large: one block's are gone before the next."""
    shallow, deep = (pixel_bytes(EDSRSpec(2, width=64, depth=depth)) for depth in (2, 12))
    assert shallow == deep
    # The widest map, after the shuffle at four pixels a pixel, beside what it is made of.
    assert 4 * 64 * 4 <= shallow <= 3 * 4 * 64 * 4


def test_macs_follow_the_number_of_pixels_from_one_to_the_largest_side() -> None:
    one = cost(EDSRSpec(2, 4, 1), (1, 1)).macs
    assert one > 0 and cost(EDSRSpec(2, 4, 1), (65536, 1)).macs == 65536 * one
