"""Networks work with compilers: one strict graph for all sizes, any memory format, and ONNX with the same outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from compressor.models.networks.base import Network, Spec
from compressor.models.networks.carn import CARNSpec
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import NETWORKS
from compressor.models.networks.swinir import SwinIRSpec
from compressor.runtimes.onnx_runtime import OnnxRuntime
from export.convert.to_onnx import convert
from export.formats.conversion import Conversion
from tests.support.networks import VARIANTS, label, noise, tiny
from tests.support.slices import lively

DIRECT = SwinIRSpec(2, width=8, depths=(2,), heads=(2,), window=4, upsampler="pixelshuffledirect")
USUAL = [*(tiny(arch, 2) for arch in NETWORKS if arch != "swinir"), DIRECT]
PUBLISHED_WINDOW = replace(DIRECT, scale=4, width=12, heads=(6,), window=8)
OTHERS = [replace(DIRECT, upsampler="pixelshuffle", features=6), tiny("swinir", 3), PUBLISHED_WINDOW, *VARIANTS]
QUICK = ("edsr",)


def by_tier(specs: Iterable[Spec]) -> list[object]:
    return [
        pytest.param(spec, marks=pytest.mark.slow if spec in OTHERS else () if spec.arch in QUICK else pytest.mark.ci)
        for spec in specs
    ]


SPECS = by_tier((*USUAL, *OTHERS))
"""Specs to trace. A graph takes seconds: two by default, the usual forms in CI, scale 8 and the rarer ones in the long
run."""
TOLERANCE = 1e-5


def _exported_elsewhere(spec: Spec) -> bool:
    """Return True if test_export_onnx.py (EDSR), test_export_matrix.py (CARN) or the published window (SwinIR's lighter
    tail) covers the spec.
    """
    return spec in USUAL and (isinstance(spec, (EDSRSpec, CARNSpec)) or spec is DIRECT)


@pytest.mark.parametrize("spec", SPECS, ids=label)
def test_one_strict_graph_serves_every_size(spec: Spec) -> None:
    network = lively(spec)
    dynamic = ({0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO},)
    program = torch.export.export(network, (noise(spec, 20, 24, batch=2),), dynamic_shapes=dynamic, strict=True)
    # SwinIR's graph refuses pictures of a single window: torch always treats a size of 1 as static.
    for batch, height, width in ((2, 20, 24), (1, 11, 17), (3, 16, 8)):
        lr = noise(spec, height, width, batch)
        assert torch.allclose(program.module()(lr), network(lr), atol=TOLERANCE), (batch, height, width)


@pytest.mark.parametrize("spec", [*USUAL, *OTHERS], ids=label)
def test_channels_last_changes_nothing_but_the_memory(spec: Spec) -> None:
    network = lively(spec)
    lr = noise(spec, 7, 13, batch=2)
    expected = network(lr)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    assert torch.allclose(network(lr.to(memory_format=torch.channels_last)), expected, atol=TOLERANCE)


@pytest.mark.parametrize(
    "spec", by_tier(spec for spec in (*USUAL, *OTHERS) if spec.arch in ("edsr", "swinir")), ids=label
)
def test_compiling_trains_alike(spec: Spec) -> None:
    """aot_eager captures forward and backward like inductor, without its minutes of code generation.

    The strict graphs above show that no network breaks one.
    """
    network = lively(spec)
    lr = noise(spec, 9, 10)
    torch._dynamo.reset()
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    plain, traced = (gradients(run, network, lr) for run in (network, compiled))
    for (name, expected), (_, actual) in zip(plain, traced, strict=True):
        assert torch.allclose(expected, actual, rtol=1e-4, atol=1e-4 * float(expected.abs().max()) + 1e-7), name


def gradients(
    run: Callable[[torch.Tensor], torch.Tensor], network: Network, lr: torch.Tensor
) -> list[tuple[str, torch.Tensor]]:
    network.zero_grad()
    sr = run(lr)
    sr.square().mean().backward()
    result = [("sr", sr.detach())]
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        result.append((name, parameter.grad.clone()))
    return result


@pytest.mark.parametrize(
    "spec", by_tier(spec for spec in (*USUAL, *OTHERS) if not _exported_elsewhere(spec)), ids=label
)
def test_onnx_of_any_size_says_the_same(spec: Spec, tmp_path: Path) -> None:
    """Sizes that are no multiple of the window, smaller than it, and exactly it; and a batch."""
    network = lively(spec)
    convert(Conversion(network, tmp_path / "network.onnx", {}))
    runtime = OnnxRuntime(tmp_path / "network.onnx")
    for batch, height, width in ((1, 1, 1), (1, 2, 13), (1, 7, 13), (2, 16, 8), (1, 17, 33), (3, 9, 4)):
        lr = noise(spec, height, width, batch)
        assert (runtime.run(lr) - network(lr)).abs().max() <= 1e-4, (batch, height, width)
