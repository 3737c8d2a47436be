"""A graph rewritten for LiteRT computes the same without slow operations; the network itself does not change."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.fx import GraphModule

from compressor.models.networks.base import Spec
from compressor.models.networks.carn import CARNSpec
from compressor.models.networks.carn_m import CARNMSpec
from compressor.models.networks.compact import CompactSpec
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.rcan import RCANSpec
from compressor.models.networks.registry import build
from compressor.models.networks.swinir import SwinIRSpec
from export.convert.litert_graph import aten, depth_to_space, trace_network, use_litert_operations
from export.formats.conversion import needs_fixed_size

FREE = (
    EDSRSpec(width=8, depth=1, scale=4),
    RCANSpec(width=8, hidden=2, groups=1, depth=1, scale=3, mean_shift="file"),
    CARNSpec(width=8, scale=3),
    CARNMSpec(width=8, scale=4),
    CompactSpec(width=8, depth=1, scale=3),
    CompactSpec(width=8, depth=1, scale=2, channels=1),
)
WINDOWS = (
    SwinIRSpec(width=8, depths=(2,), heads=(2,), window=4, scale=2, features=8),
    SwinIRSpec(width=8, depths=(1,), heads=(2,), window=4, scale=4, features=8, upsampler="nearest+conv"),
)


def operations(module: GraphModule) -> list[object]:
    return [node.target for node in module.graph.nodes if node.op == "call_function"]


@pytest.mark.ci
@pytest.mark.parametrize("spec", (*FREE, *WINDOWS), ids=lambda spec: f"{spec.arch}x{spec.scale}")
def test_the_rewritten_graph_is_the_same_function(spec: Spec) -> None:
    network = build(spec, seed=5).eval().requires_grad_(False)
    before = copy.deepcopy(network.state_dict())
    lr = torch.rand(1, network.descriptor.channels, 10, 13)
    module = trace_network(network, lr)
    assert needs_fixed_size(network) == (spec in WINDOWS)
    use_litert_operations(module)
    left = operations(module)
    for slow in (aten.pixel_shuffle.default, aten.upsample_nearest2d.vec, aten.prelu.default):
        assert slow not in left
    assert torch.ops.srkd.depth_to_space.default in left
    torch.testing.assert_close(module(lr), network(lr), atol=1e-6, rtol=0)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_only_a_convolution_of_its_own_is_reordered() -> None:
    class Shared(torch.nn.Module):
        """A convolution whose output is used twice, so that its channels must not be reordered."""

        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 12, 3, padding=1)

        def forward(self, lr: torch.Tensor) -> torch.Tensor:
            feature = self.conv(lr)
            return (
                torch.pixel_shuffle(feature, 2)
                + feature.mean(1, keepdim=True).repeat_interleave(2, 2).repeat_interleave(2, 3) * feature[:, :1].sum()
            )

    network = Shared().requires_grad_(False)
    lr = torch.rand(1, 3, 5, 6)
    module = use_litert_operations(trace_network(network, lr))
    assert torch.ops.srkd.take.default in operations(module)
    torch.testing.assert_close(module(lr), network(lr), atol=1e-6, rtol=0)


def test_depth_to_space_puts_a_pixels_channels_together() -> None:
    pixels = torch.arange(12.0).reshape(1, 1, 1, 12)
    assert depth_to_space(pixels, 2).reshape(2, 2, 3).tolist() == [[[0, 1, 2], [3, 4, 5]], [[6, 7, 8], [9, 10, 11]]]
