"""ExecuTorch in eight bits: what is in integers; test_formats_int8.py has what holds for all int8 formats."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from compressor.base.errors import SrkdError
from compressor.inference.open import open_model
from compressor.models.networks.base import Network
from compressor.models.networks.carn_m import CARNMSpec
from compressor.models.networks.compact import CompactSpec
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.rcan import RCANSpec
from compressor.models.networks.registry import build, quantise
from compressor.models.networks.spanf3 import SPANF3Spec
from compressor.models.quantisation.description import Quantisation
from export.convert.to_executorch import trace
from export.int8.float_parts import FloatParts
from export.writing.exporting import FileReport
from tests.support.exports import export_file
from tests.support.extras import extra

extra("executorch")
extra("torchao")
to_executorch_int8 = pytest.importorskip("export.int8.to_executorch_int8")
pytestmark = [pytest.mark.extras, pytest.mark.usefixtures("quick_int8")]


def test_what_is_computed_with_integers_is_counted(int8_file: Callable[[str], tuple[FileReport, list[str]]]) -> None:
    good, notes = int8_file("executorch-int8")
    assert good.facts["int8_operations"] == {"convolution": 7, "add": 2, "relu": 1}
    # The mean shift at both ends, and the operations of a pixel shuffle outside XNNPACK.
    assert good.facts["float_operations"] == {"sub": 1, "mul": 1, "add": 1, "view_copy": 4}
    assert "ExecuTorch: in int8 2 add, 7 convolution, 1 relu; in float 1 add, 1 mul, 1 sub, 4 view_copy" in notes
    assert good.bytes is not None and good.path is not None
    assert b"quantize" not in good.path.read_bytes().replace(b"dequantize", b""), "no operator outside of XNNPACK"
    sidecar = json.loads(good.path.with_name(f"{good.path.name}.json").read_text())
    assert "srkd.quant" not in good.facts and "srkd.quant" not in sidecar["facts"]


def test_a_damaged_program_is_one_line(
    int8_file: Callable[[str], tuple[FileReport, list[str]]], tmp_path: Path
) -> None:
    good, _ = int8_file("executorch-int8")
    assert good.path is not None
    for part in good.path.parent.iterdir():
        (tmp_path / part.name).write_bytes(part.read_bytes())
    path = tmp_path / good.path.name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(SrkdError, match=r"small\.int8\.pte .*again"):
        open_model(path)


@pytest.mark.parametrize(
    ("spec", "upsampler", "sums", "floats"),
    [
        (EDSRSpec(width=8, depth=2, scale=4, res_scale=0.1), {"upsampler.convs.0", "upsampler.convs.1"}, 5, 2),
        (CompactSpec(width=8, depth=2, scale=4), set(), 0, 1),
        (RCANSpec(width=8, hidden=2, groups=1, depth=1, scale=2), {"upsampler.convs.0"}, 4, 2),
        (CARNMSpec(width=8, scale=4), None, None, 2),
    ],
    ids=lambda value: getattr(value, "arch", None),
)
def test_what_can_stay_in_float(spec: EDSRSpec, upsampler: set[str] | None, sums: int | None, floats: int) -> None:
    """The layers of our networks are found in the program, and the sums that lead to another layer.

    `floats` are sums and products that are always in float: those of the image at both ends."""
    graph = trace(build(spec, seed=0), None, 128).module().graph
    layers = to_executorch_int8._layers(graph)
    assert len(layers.names) == sum(weight.ndim == 4 for weight in build(spec, seed=0).parameters())
    if upsampler is not None:
        assert set(layers.upsampler) == upsampler

    def kept(parts: FloatParts) -> set[str]:
        summing = {node.name for node in graph.nodes if node.target in to_executorch_int8.SUMS}
        return summing & {node.name for node in to_executorch_int8._in_float(graph, parts)}

    assert len(kept(FloatParts())) == floats
    if sums is not None:
        assert len(kept(FloatParts(sums=True)) - kept(FloatParts())) == sums
    last = FloatParts(layers=frozenset(layers.names[-1:]))
    names = {node.name for node in to_executorch_int8._in_float(graph, last)}
    assert {to_executorch_int8._name(node) for node in graph.nodes if node.name in names} >= set(layers.names[-1:])


def test_layers_that_share_a_weight_are_all_in_integers() -> None:
    network = build(CARNMSpec(width=8, scale=2), seed=0)
    patches = torch.rand(2, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    module = to_executorch_int8._quantise(trace(network, None, 128).module(), patches, FloatParts())
    layers = [node for node in module.graph.nodes if node.target in to_executorch_int8.LAYERS]
    weights = [str(node.args[1].target) for node in layers]
    assert len(weights) > len(list(network.parameters())) / 2, "blocks are run several times"
    assert all(weight.startswith("quantized_decomposed.dequantize_per_channel") for weight in weights)
    # XNNPACK stores a bias as integers on the grid of one layer: for another layer it would be wrong.
    biases = [node.args[2].target for node in layers]
    assert len(set(biases)) == len(layers)
    with torch.no_grad():
        assert float((module(patches[:1]) - network(patches[:1])).square().mean()) < 1e-4


def test_gates_stay_in_float() -> None:
    """The pooled value of an image is one pixel, whose error would affect all pixels."""
    graph = trace(build(RCANSpec(width=8, hidden=2, groups=1, depth=1, scale=2), seed=0), None, 128).module().graph
    names = {to_executorch_int8._name(node) for node in to_executorch_int8._in_float(graph, FloatParts())}
    assert {name for name in to_executorch_int8._layers(graph).names if name in names} == {
        name for name in to_executorch_int8._layers(graph).names if name.endswith((".squeeze", ".expand"))
    }
    assert any(name.endswith(".squeeze") for name in names)


def test_the_tanh_of_a_gate_is_that_of_the_network(tmp_path: Path) -> None:
    """Of bytes it differed by 0.2 on white, and the file was refused."""
    assert export_file(build(SPANF3Spec(4, width=8, depth=1), seed=1), "executorch-int8", tmp_path).verdict == "passed"


def test_small_weights_keep_their_bits(small_edsr: Network) -> None:
    """A layer whose weights are all below 0.03, and the next one as much larger: torchao's smallest scale would cost
    five of its eight bits."""
    first, second = small_edsr.get_parameter("blocks.0.conv1.weight"), small_edsr.get_parameter("blocks.0.conv2.weight")
    patches = torch.rand(4, 3, 24, 24, generator=torch.Generator().manual_seed(0))

    def loss(factor: float) -> float:
        with torch.no_grad():
            scaled = build(small_edsr.spec, seed=0)
            scaled.get_parameter("blocks.0.conv1.weight").copy_(first * factor)
            scaled.get_parameter("blocks.0.conv1.bias").zero_()
            scaled.get_parameter("blocks.0.conv2.weight").copy_(second / factor)
            module = to_executorch_int8._quantise(trace(scaled, None, 128).module(), patches, FloatParts())
            return float((module(patches[:1]) - scaled(patches[:1])).square().mean())

    assert loss(2.0**-9) == pytest.approx(loss(1.0), rel=0.05)


def test_a_network_that_was_trained_quantised_is_refused(small_edsr: Network, tmp_path: Path) -> None:
    file = export_file(quantise(small_edsr, Quantisation("pams", 8, "all")), "executorch-int8", tmp_path)
    assert file.verdict == "unavailable" and "pams, 8 bits, placement all" in str(file.reason)
    assert "only --int8 writes the ranges" in str(file.reason)
