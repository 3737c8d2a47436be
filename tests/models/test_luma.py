"""The luma of a network: what it does to a grey picture, with one channel."""

from __future__ import annotations

import pytest
import torch

from compressor.base.errors import SrkdError
from compressor.inference.super_resolve import rgb_to_ycbcr
from compressor.models.networks.compact import CompactSpec
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.plain import PlainSpec
from compressor.models.networks.registry import build, quantise
from compressor.models.quantisation.description import Quantisation

SPECS = (
    CompactSpec(2, width=8, depth=2),
    CompactSpec(1, width=6, depth=1, act="leakyrelu", residual=False),
    PlainSpec(3, width=6, depth=1),
    PlainSpec(2, width=4, depth=1, residual=False),
)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.arch} x{spec.scale} residual={spec.residual}")
def test_a_grey_picture_has_the_luma_that_the_network_gives_it(spec: CompactSpec) -> None:
    network = build(spec, seed=0).train()  # in training nothing is clipped
    luma = network.in_luma()
    assert luma.descriptor.channels == 1 and luma.training
    grey = torch.rand(1, 1, 20, 24, generator=torch.Generator().manual_seed(0)).expand(-1, 3, -1, -1)
    expected = rgb_to_ycbcr(network(grey))[:, :1]
    enlarged = luma(rgb_to_ycbcr(grey)[:, :1])
    inner = spec.scale * (spec.depth + 2)
    difference = (enlarged - expected).abs()
    assert difference[..., inner:-inner, inner:-inner].max() < 1e-6
    # The zeros around a picture are black in RGB, and below black in luma.
    assert difference.max() > 1e-5


def test_white_stays_white_and_the_network_is_unchanged() -> None:
    """Without its convolutions the network repeats pixels, and so does its luma."""
    network = build(CompactSpec(2, width=4, depth=1), seed=0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    white = torch.full((1, 1, 3, 3), 235 / 255)
    assert torch.equal(network.in_luma()(white), torch.full((1, 1, 6, 6), 235 / 255))
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_other_networks_have_none() -> None:
    one = build(CompactSpec(2, width=4, depth=1, channels=1), seed=0)
    levels = quantise(build(PlainSpec(2, width=4, depth=1), seed=0), Quantisation("pams", 8, "all"))
    for network in (build(EDSRSpec(width=8, depth=1, scale=2), seed=0), one, levels):
        with pytest.raises(SrkdError, match="has no form for luma alone: float plain and compact with three"):
            network.in_luma()
