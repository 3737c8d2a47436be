"""Values near the end of fp16 are found and refused."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from compressor.models.networks.base import Network
from export.formats.conversion import CannotConvert
from export.formats.proof_inputs import ProofInput, proof_inputs
from export.graph.headroom import FP16_MAX, Peak, fp16_line, measure_graph, require_headroom
from export.graph.onnx_graph import build_graph
from tests.support.exports import export_file
from tests.support.onnx_files import model_of

OPSET = 18


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
    model = build_graph(changed(network, stripes_only), None, OPSET)
    inputs = proof_inputs(network.descriptor)

    def largest(samples: Sequence[ProofInput]) -> float:
        return next(peak.largest for name, peak in measure_graph(model, samples)[0].items() if name == "conv2d_1")

    before = [sample for sample in inputs if sample.photo or sample.name.startswith(("black", "white", "noise"))]
    assert len(before) == len(inputs) - 6 - 4
    assert largest(before) < FP16_MAX < largest(inputs)


def test_a_network_that_overflows_on_stripes_alone_is_refused(network: Network, tmp_path: Path) -> None:
    file = export_file(changed(network, stripes_only), "fp16", tmp_path)
    assert file.verdict == "unavailable" and "stripes" in str(file.reason)


@pytest.mark.ci
def test_a_stream_without_room_is_refused_and_the_layer_is_named(network: Network, tmp_path: Path) -> None:
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


def test_values_that_are_not_finite_have_no_headroom() -> None:
    model = model_of("g (float[n, 3, h, w] x) => (float[n, 3, h, w] y) { z = Log(x) w = Mul(z, x) y = Exp(w) }")
    for index, node in enumerate(model.graph.node):
        node.name = f"node{index}"
    peaks, _ = measure_graph(model, [ProofInput("black", torch.zeros(1, 3, 4, 4))])
    assert list(peaks) == ["z", "w", "y"] and peaks["w"].largest == float("inf")
    with pytest.raises(CannotConvert, match="node0 reaches inf on black"):
        require_headroom(peaks, {"z", "w", "y"})
    assert require_headroom(peaks, ()) == float("inf")
    assert fp16_line(peaks).startswith("not fp16 safe: node0 reaches inf on black")
    safe = {"y": Peak("up", np.array([2.0]), "chelsea")}
    assert fp16_line(safe) == "fp16 safe: up reaches 2 on chelsea, 32,752 times below the end of fp16"
