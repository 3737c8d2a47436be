"""A copy of a network for one size: the same function, without arithmetic on sizes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from compressor.models.networks.base import Spec
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import build
from compressor.models.networks.swinir import SwinIRSpec
from export.conversion import needs_fixed_size
from export.fixed_copy import fixed_copy

SWINIR = SwinIRSpec(2, width=4, depths=(2,), heads=(2,), window=4, features=4)
INTEGERS = ("arange", "remainder", "where", "full_like", "aten.eq", "aten.ge.", "aten.index.")


@pytest.mark.parametrize(
    ("spec", "size"),
    [
        (SWINIR, (8, 12)),
        (SWINIR, (9, 3)),
        (replace(SWINIR, upsampler="none", scale=1, channels=1, padding="testscript"), (5, 6)),
        (EDSRSpec(2, width=4, depth=1), (5, 6)),
    ],
    ids=["whole windows", "padded", "padded as the test script does", "convolutions"],
)
def test_the_same_function_of_one_size(spec: Spec, size: tuple[int, int]) -> None:
    network = build(spec, seed=0).eval()
    assert needs_fixed_size(network) == (spec.arch == "swinir")
    copy = fixed_copy(network, size)
    lr = torch.rand(1, network.descriptor.channels, size[1], size[0])
    with torch.no_grad():
        torch.testing.assert_close(copy(lr), network(lr), atol=1e-6, rtol=0)
    called = [str(node.target) for node in copy.graph.nodes if node.op == "call_function"]
    assert called and not [name for name in called if any(word in name for word in INTEGERS)]
    selections = [name for name in called if "index_select" in name]
    assert bool(selections) == (spec.arch == "swinir" and size != (8, 12))


def test_equal_constants_are_kept_once() -> None:
    copy = fixed_copy(build(replace(SWINIR, depths=(4,)), seed=0).eval(), (8, 8))
    masks = [buffer for name, buffer in copy.named_buffers() if name.startswith("constant") and buffer.min() == -100]
    assert len(masks) == 1
