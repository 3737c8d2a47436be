"""Parameters and MACs are the published ones, to the last digit, in no time and no memory."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch
from torch import nn

from compressor.cost import cost, extra_operations
from compressor.errors import UsageError
from compressor.networks.base import Spec
from compressor.networks.carn import CARNSpec
from compressor.networks.carn_m import CARNMSpec
from compressor.networks.edsr import EDSRSpec
from compressor.networks.registry import build

Make = Callable[[int], Spec]
SCALES = (2, 3, 4)
TABLE: list[tuple[str, Make, tuple[int, int, int], tuple[float, float, float]]] = [
    (
        "EDSR 32/256",
        lambda scale: EDSRSpec(scale, 256, 32),
        (40_729_603, 43_680_003, 43_089_923),
        (2669.44, 2864.98, 3293.35),
    ),
    (
        "EDSR 32/128",
        lambda scale: EDSRSpec(scale, 128, 32),
        (10_190_339, 10_928_259, 10_780_675),
        (667.93, 717.38, 825.26),
    ),
    ("EDSR 32/64", lambda scale: EDSRSpec(scale, 64, 32), (2_551_555, 2_736_195, 2_699_267), (167.26, 179.91, 207.28)),
    ("EDSR 16/64", lambda scale: EDSRSpec(scale, 64, 16), (1_369_859, 1_554_499, 1_517_571), (89.96, 102.60, 129.97)),
    ("CARN", CARNSpec, (964_163, 1_148_803, 1_111_875), (63.38, 76.03, 103.39)),
    ("CARN-M", CARNMSpec, (257_027, 303_427, 294_147), (25.93, 29.52, 36.96)),
]
"""Parameters, and 10⁹ MACs for 256×256 LR pixels, at ×2, ×3 and ×4 (DUKD's table 1 has the EDSR ×4 figures)."""

OFFICIAL_MACS = {
    EDSRSpec(2, 256, 32): (2_669_442_564_096, 2_949_120),
    EDSRSpec(2, 64, 16): (89_958_187_008, 2_949_120),
}
"""What the official classes count at 256×256 with torch's counter, and the part of it that is the mean shift."""

HR_720P = {2: (640, 360), 3: (427, 240), 4: (320, 180)}
PUBLISHED_720P = {
    "carn": {2: 222.82, 3: 118.88, 4: 90.87},
    "carn_m": {2: 91.17, 3: 46.16, 4: 32.48},
}
"""10⁹ MACs for a 1280×720 output (CARN-pytorch, assets/table.png, to one digit more)."""


@pytest.mark.parametrize(("name", "make", "params", "macs"), TABLE, ids=[row[0] for row in TABLE])
def test_the_table_of_counts(
    name: str, make: Make, params: tuple[int, int, int], macs: tuple[float, float, float]
) -> None:
    for scale, wanted_params, wanted_macs in zip(SCALES, params, macs, strict=True):
        counted = cost(make(scale))
        assert counted.params == wanted_params
        assert round(counted.macs / 1e9, 2) == wanted_macs
        assert counted.macs_plus == counted.macs
        assert counted.lr_size == (256, 256)


@pytest.mark.parametrize("spec", [EDSRSpec(scale, 16, 32) for scale in SCALES], ids=lambda spec: f"x{spec.scale}")
def test_edsr_32_16(spec: EDSRSpec) -> None:
    assert cost(spec).params == {2: 160_963, 3: 172_563, 4: 170_243}[spec.scale]


@pytest.mark.parametrize(("spec", "counted"), OFFICIAL_MACS.items(), ids=["EDSR 32/256", "EDSR 16/64"])
def test_macs_to_the_last_digit(spec: Spec, counted: tuple[int, int]) -> None:
    assert cost(spec).macs == counted[0] - counted[1]


@pytest.mark.parametrize("make", [CARNSpec, CARNMSpec])
@pytest.mark.parametrize("scale", SCALES)
def test_720p(make: Make, scale: int) -> None:
    spec = make(scale)
    assert round(cost(spec, HR_720P[scale]).macs / 1e9, 2) == PUBLISHED_720P[spec.arch][scale]


def conv_macs(spec: EDSRSpec, width: int, height: int) -> int:
    """EDSR's MACs by hand: inputs · outputs · 9 for each pixel of each convolution."""
    c, pixels = spec.width, width * height
    head_and_body = 3 * c + (2 * spec.depth + 1) * c * c
    up = {2: [(4, 1)], 3: [(9, 1)], 4: [(4, 1), (4, 4)]}[spec.scale]
    upsampler = sum(c * rows * c * magnified for rows, magnified in up)
    return 9 * pixels * (head_and_body + upsampler + 3 * c * spec.scale**2)


@pytest.mark.parametrize("scale", SCALES)
def test_macs_by_hand_on_an_oblong_image(scale: int) -> None:
    spec = EDSRSpec(scale, 7, 3)
    assert cost(spec, (31, 17)).macs == conv_macs(spec, 31, 17)


def test_mean_shift_is_never_counted() -> None:
    plain, from_file = CARNSpec(4, 8), CARNSpec(4, 8, mean_shift="file")
    assert cost(plain) == cost(from_file)


def test_a_network_costs_what_its_spec_costs() -> None:
    network = build(CARNMSpec(3, 8), seed=0)
    assert cost(network, (20, 10)) == cost(network.spec, (20, 10))
    assert cost(network).params == sum(parameter.numel() for parameter in network.parameters())


def test_43_million_parameters_take_no_time() -> None:
    cost(EDSRSpec(2, 4, 1))  # what torch imports on the first call is not the count
    before, rng = time.perf_counter(), torch.random.get_rng_state()
    assert cost(EDSRSpec(4, 256, 32), (3840, 2160)).params == 43_089_923
    assert time.perf_counter() - before < 2.0
    assert torch.equal(rng, torch.random.get_rng_state())


def test_what_mac_plus_adds() -> None:
    """One operation an element of pooling, five of LayerNorm (DUKD's table 1: RCAN 1044.03, SwinIR 861.27)."""
    network = nn.Sequential(nn.LayerNorm(6), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with extra_operations(network) as extra:
        network(torch.rand(1, 4, 5, 6))
    assert sorted(extra) == [4 * 5 * 6, 5 * 4 * 5 * 6]
    network(torch.rand(1, 4, 5, 6))
    assert len(extra) == 2, "the hooks are gone"


@pytest.mark.parametrize("lr_size", [(0, 4), (4, 0), (65537, 1)])
def test_a_size_that_is_none_is_refused(lr_size: tuple[int, int]) -> None:
    with pytest.raises(UsageError, match="lr_size"):
        cost(EDSRSpec(2, 4, 1), lr_size)
