"""Values near the end of fp16 are found, rescaled if that is exact, and otherwise refused."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from compressor.models.networks.base import Network, Spec
from compressor.models.networks.carn_m import CARNMSpec
from compressor.models.networks.compact import CompactSpec
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import build
from export.formats.conversion import CannotConvert
from export.formats.proof_inputs import ProofInput, proof_inputs
from export.graph import headroom
from export.graph.headroom import FP16_MAX, HEADROOM, measure_graph, require_headroom, rescale_channels
from export.graph.onnx_graph import build_graph
from tests.support.exports import export_file
from tests.support.onnx_files import run_graph as run

SPEC = EDSRSpec(width=8, depth=1, scale=2)
OPSET = 18


@pytest.fixture(scope="module")
def network() -> Network:
    return build(SPEC, seed=0)


def changed(network: Network, change: Callable[[dict[str, torch.Tensor]], None]) -> Network:
    other = copy.deepcopy(network)
    state = other.state_dict()
    change(state)
    other.load_state_dict(state)
    return other


def stripes_only(state: dict[str, torch.Tensor]) -> None:
    """Make channel 0 of the first block respond only to single columns of white among blue.

    The head passes the image on. The kernel sums to 0 over a flat colour and uses red and green, not blue: columns of
    white and blue give 255 * 2 * 3 * gain, whereas neighbours in photos are nearly equal.
    """
    for tensor in (state["head.weight"], state["head.bias"], state["blocks.0.conv1.weight"]):
        tensor.zero_()
    for colour in range(3):
        state["head.weight"][colour, colour, 1, 1] = 1.0
    kernel = torch.tensor([-0.5, 1.0, -0.5]).expand(3, 3)
    gain = 1.02 * FP16_MAX / (255 * 2 * 3)
    state["blocks.0.conv1.weight"][0, 0] = state["blocks.0.conv1.weight"][0, 1] = kernel * gain
    state["blocks.0.conv2.weight"][:, 0] /= 1e5


def test_stripes_of_one_pixel_overflow_where_photos_and_noise_do_not(network: Network) -> None:
    """Such a file once passed, as no input of the comparison drove the channel beyond fp16."""
    model = build_graph(changed(network, stripes_only), None, OPSET).model
    inputs = proof_inputs(network.descriptor)

    def largest(samples: Sequence[ProofInput]) -> float:
        return next(peak.largest for name, peak in measure_graph(model, samples).peaks.items() if name == "conv2d_1")

    before = [sample for sample in inputs if sample.photo or sample.name.startswith(("black", "white", "noise"))]
    assert len(before) == len(inputs) - 6 - 4
    assert largest(before) < FP16_MAX < largest(inputs)


def test_the_overflow_is_rescaled_away(network: Network, tmp_path: Path) -> None:
    file = export_file(changed(network, stripes_only), "fp16", tmp_path)
    assert file.verdict == "passed" and file.facts["rescaled_channels"] == 1, file.reason
    assert float(str(file.facts["headroom"])) >= HEADROOM


@pytest.mark.ci
def test_what_one_convolution_multiplies_and_the_next_divides(network: Network, tmp_path: Path) -> None:
    def louder(state: dict[str, torch.Tensor]) -> None:
        for name in ("blocks.0.conv1.weight", "blocks.0.conv1.bias"):
            state[name] *= 3000
        state["blocks.0.conv2.weight"] /= 3000

    plain = export_file(network, "fp16", tmp_path / "plain")
    file = export_file(changed(network, louder), "fp16", tmp_path / "loud")
    assert plain.facts["rescaled_channels"] == 0 and file.facts["rescaled_channels"] == SPEC.width
    assert file.verdict == plain.verdict == "passed" and file.parity is not None and plain.parity is not None
    assert file.parity.psnr is not None and plain.parity.psnr is not None
    assert file.parity.psnr > plain.parity.psnr - 3


@pytest.mark.ci
def test_a_stream_without_room_is_refused_and_the_layer_is_named(network: Network, tmp_path: Path) -> None:
    """The stream of the residual blocks has several users, so none of its channels can be rescaled."""

    def louder(state: dict[str, torch.Tensor]) -> None:
        gain = 1024
        for name in ("head.weight", "head.bias", "blocks.0.conv2.weight", "blocks.0.conv2.bias", "body_end.bias"):
            state[name] *= gain
        for name in ("blocks.0.conv1.weight", "upsampler.convs.0.weight"):
            state[name] /= gain

    file = export_file(changed(network, louder), "fp16", tmp_path)
    assert file.verdict == "unavailable" and list(tmp_path.iterdir()) == []
    reason = str(file.reason)
    assert "head/conv2d" in reason and "reaches" in reason and "fp16 ends at 65504" in reason and "--bf16" in reason
    assert "\n" not in reason
    bf16 = export_file(changed(network, louder), "bf16", tmp_path)
    assert bf16.verdict == "passed", bf16.reason  # bf16 reaches as far as float32


@pytest.mark.ci
@pytest.mark.parametrize(
    "spec",
    [SPEC, CompactSpec(width=8, depth=2, scale=2), CARNMSpec(width=16, groups=4, scale=2)],
    ids=lambda spec: spec.arch,
)
def test_rescaling_changes_no_bit_of_the_output(spec: Spec, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cases are ReLU, PReLU with a slope per channel, and grouped convolutions; rescaled peaks stay correct."""
    monkeypatch.setattr(headroom, "HEADROOM", 2**19)  # nearly every channel counts as too near
    network = build(spec, seed=3)
    model = build_graph(network, None, OPSET).model
    rescaled = copy.deepcopy(model)
    inputs = proof_inputs(network.descriptor)
    peaks = measure_graph(rescaled, inputs).peaks
    count = rescale_channels(rescaled, peaks)
    assert count >= 8
    lr = torch.rand(2, 3, 11, 9, generator=torch.Generator().manual_seed(5))
    np.testing.assert_array_equal(run(rescaled, lr), run(model, lr))
    again = measure_graph(rescaled, inputs).peaks
    assert list(again) == sorted(peaks, key=list(again).index)
    for name, peak in again.items():
        np.testing.assert_allclose(peak.channels, peaks[name].channels, rtol=1e-6)
    assert any(name.endswith(".rescaled") for name in peaks)


@pytest.mark.ci
def test_a_weight_that_would_lose_digits_stays(network: Network) -> None:
    """Divided by 2^k, a tiny weight in a large row would become denormal, so the row is not changed."""

    def uneven(state: dict[str, torch.Tensor]) -> None:
        state["blocks.0.conv1.weight"] *= 3000
        state["blocks.0.conv1.weight"][0, 0, 0, 0] = 1.2345e-38

    model = build_graph(changed(network, uneven), None, OPSET).model
    before = model.SerializeToString(deterministic=True)
    assert rescale_channels(model, measure_graph(model, proof_inputs(network.descriptor)).peaks) == 0
    assert model.SerializeToString(deterministic=True) == before


def test_values_that_are_not_finite_have_no_headroom() -> None:
    head = '<ir_version: 8, opset_import: ["" : 18]> g'
    image = "float[n, 3, h, w]"
    model = onnx.parser.parse_model(f"{head} ({image} x) => ({image} y) {{ z = Log(x) w = Mul(z, x) y = Exp(w) }}")
    for index, node in enumerate(model.graph.node):
        node.name = f"node{index}"
    peaks = measure_graph(model, [ProofInput("black", torch.zeros(1, 3, 4, 4))]).peaks
    assert list(peaks) == ["z", "w", "y"] and peaks["w"].largest == float("inf")
    with pytest.raises(CannotConvert, match="node0 reaches inf on black"):
        require_headroom(peaks, {"z", "w", "y"})
    assert require_headroom(peaks, ()) == float("inf")
