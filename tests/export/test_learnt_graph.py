"""The QDQ graph of a network that was trained quantised: integers with the results of the fake quantisation."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

from compressor.base.errors import SrkdError
from compressor.base.machine import integer_products
from compressor.models.networks.base import Network, Spec
from compressor.models.networks.compact import CompactSpec
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import build, quantise
from compressor.models.networks.swinir import SwinIRSpec
from compressor.models.quantisation.description import Placement, Quantisation
from compressor.models.quantisation.quantisers import quantised_layers, quantisers_of, round_biases, weight_levels
from export.int8.learnt_graph import build_learnt_graph
from export.int8.quantise.grids import U8
from export.int8.quantise.plan import CPU, TENSORRT, Flavour
from export.writing.exporting import Source, export_model
from tests.support.networks import find_ranges
from tests.support.onnx_files import run_graph

LR = torch.rand(1, 3, 24, 20, generator=torch.Generator().manual_seed(3))
Method = Literal["pams", "pact"]
EDSR = EDSRSpec(2, width=8, depth=2)
COMPACT = CompactSpec(2, width=8, depth=2)
SWINIR = SwinIRSpec(2, width=8, depths=(1,), heads=(2,), window=4, features=8)
FLAVOURS = {"cpu": CPU, "cpu without VNNI": replace(CPU, weights=U8), "tensorrt": TENSORRT}
Case = tuple[Spec, Method, Placement, str]
CASES: list[Case] = [
    (EDSR, "pams", "paper", "cpu without VNNI"),
    (EDSR, "pams", "all", "cpu"),
    (EDSR, "pact", "all", "cpu"),
    (EDSR, "pact", "all", "tensorrt"),
    (COMPACT, "pams", "all", "cpu"),
    (SWINIR, "pams", "all", "cpu without VNNI"),
]
IN_MAKE_TEST = ((EDSR, "pams", "all", "cpu"), (EDSR, "pact", "all", "tensorrt"))
each_case = pytest.mark.parametrize(
    "case",
    [
        pytest.param(
            case, marks=[] if case in IN_MAKE_TEST else pytest.mark.ci, id=f"{case[0].arch}-{'-'.join(case[1:])}"
        )
        for case in CASES
    ],
)
"""Tracing takes seconds, so most of the cases are of CI's tier."""


@cache
def network_of(spec: Spec, method: Method, placement: Placement, bits: int = 8) -> Network:
    network = quantise(build(spec, seed=1), Quantisation(method, bits, placement))
    # Some features lie outside the range, so that clipping is compared, too.
    return find_ranges(network, LR, margin=0.7).eval().requires_grad_(False)


@cache
def graph_of(case: Case) -> onnx.ModelProto:
    spec, method, placement, flavour = case
    return build_learnt_graph(network_of(spec, method, placement), None, 18, FLAVOURS[flavour])


def run(model: onnx.ModelProto, lr: torch.Tensor, *, plain: bool = False) -> torch.Tensor:
    """The output of a graph, optimised as for users, or with `plain` without optimisation."""
    return torch.from_numpy(run_graph(model, lr, exactly=plain))


@pytest.mark.ci
@each_case
@pytest.mark.parametrize("plain", [True, False], ids=["as written", "optimised"])
def test_it_gives_the_numbers_of_the_fake_quantisation(case: Case, plain: bool) -> None:
    if case[-1] != "cpu without VNNI" and not plain and not integer_products():
        pytest.skip("this processor has no VNNI: its sums of products overflow")
    network = network_of(*case[:3])
    expected = network(LR)
    difference = run(graph_of(case), LR, plain=plain) - expected
    assert float(difference.abs().max()) <= 2 / 255
    assert float(difference.square().mean()) <= 10**-4.5
    # The comparison is meaningful only if the float network gives another result.
    assert (build(network.spec, seed=1)(LR) - expected).abs().max() > 2 * difference.abs().max()


@each_case
def test_weights_are_integers_and_features_go_through_them(case: Case) -> None:
    network, graph = network_of(*case[:3]), graph_of(case).graph
    kind, middle = (np.uint8, 128) if case[-1] == "cpu without VNNI" else (np.int8, 0)
    stored_values = [numpy_helper.to_array(tensor) for tensor in graph.initializer]
    integers = [(values.astype(int) - middle).astype(np.int8) for values in stored_values if values.dtype == kind]
    stored = sorted(tuple(np.sort(values.flatten())) for values in integers if values.ndim >= 2)
    levels = [
        weight_levels(layer.weight, 8, per_channel=layer.per_channel)[0] for layer in quantised_layers(network).values()
    ]
    assert stored == sorted(tuple(np.sort(values.numpy().astype(np.int8).flatten())) for values in levels)
    if case[-1] == "tensorrt":  # which refuses any other zero point
        constants = {node.output[0]: node.attribute[0].t for node in graph.node if node.op_type == "Constant"}
        constants |= {tensor.name: tensor for tensor in graph.initializer}
        zeros = [constants[node.input[2]] for node in graph.node if node.op_type == "QuantizeLinear"]
        assert zeros and not any(numpy_helper.to_array(zero).any() for zero in zeros)
    kinds = [node.op_type for node in graph.node]
    assert "Round" not in kinds and kinds.count("DequantizeLinear") == kinds.count("QuantizeLinear") + len(stored)


@pytest.mark.parametrize(("method", "flavour"), [("pams", "cpu"), ("pams", "cpu without VNNI"), ("pact", "cpu")])
def test_onnx_runtime_computes_the_blocks_in_integers(method: Method, flavour: str, tmp_path: Path) -> None:
    """They are both convolutions of each block, the upsampler's, and the sums between blocks."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    model = graph_of((EDSR, method, "all", flavour))
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert kinds.count("QLinearConv") >= 5 and kinds.count("QLinearAdd") >= 1


@pytest.mark.ci
@pytest.mark.parametrize(("method", "placement"), [("pams", "paper"), ("pact", "all")])
def test_rounded_biases_are_whole_numbers_of_the_steps_in_which_integers_add(
    method: Method, placement: Placement
) -> None:
    network = network_of(EDSR, method, placement)
    rounded = copy.deepcopy(network)
    round_biases(rounded, LR)
    before, after = (_biases_in_steps(build_learnt_graph(either, None, 18)) for either in (network, rounded))
    assert len(after) == len(quantised_layers(network)) and after.keys() == before.keys()
    for name, levels in after.items():
        assert np.abs(levels).max() > 1, "the step is a small part of the bias"
        np.testing.assert_allclose(levels, np.round(before[name]), rtol=1e-6, atol=1e-3)
        assert np.abs(before[name] - np.round(before[name])).max() > 0.05


def _biases_in_steps(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """The bias of each integer convolution in multiples of its products' scale."""
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    values |= {
        n.output[0]: numpy_helper.to_array(n.attribute[0].t) for n in model.graph.node if n.op_type == "Constant"
    }
    scales = {n.output[0]: values[n.input[1]] for n in model.graph.node if n.op_type == "DequantizeLinear"}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv" and node.input[1] in scales]
    return {n.input[2]: values[n.input[2]] / (scales[n.input[0]] * scales[n.input[1]]) for n in convolutions}


def test_pamss_own_code_keeps_the_bias_of_what_reads_features_in_full() -> None:
    network = quantise(build(EDSR, seed=1), Quantisation("pams", 8, "paper", "pams"))
    rounded = copy.deepcopy(network)
    round_biases(rounded, LR)
    for block, other in zip(network.blocks, rounded.blocks, strict=True):
        assert torch.equal(block.conv1.bias, other.conv1.bias) and not torch.equal(block.conv2.bias, other.conv2.bias)


def test_what_has_no_integers_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(SrkdError, match="edsr was not trained quantised"):
        build_learnt_graph(build(EDSR, seed=1), None, 18)
    four = network_of(EDSR, "pams", "paper", 4)
    with pytest.raises(SrkdError, match="4 bits, and integer files have 8"):
        build_learnt_graph(four, None, 18)


@pytest.mark.ci
def test_float_files_hold_the_fake_quantisation_and_half_ones_are_refused(tmp_path: Path) -> None:
    network = network_of(EDSR, "pams", "paper", 4)
    exact, *half = export_model(network, Source("student"), ["onnx", "fp16", "bf16"], tmp_path).files
    assert exact.verdict == "passed" and exact.path is not None
    assert float((run(onnx.load(exact.path), LR) - network(LR)).square().mean()) <= 10**-5
    metadata = {entry.key: entry.value for entry in onnx.load(exact.path).metadata_props}
    assert Quantisation.from_json(metadata["srkd.quant"]) == network.quantisation
    for file in half:
        assert file.verdict == "unavailable" and file.reason is not None
        assert "trained quantised (pams, 4 bits, placement paper)" in file.reason and "\n" not in file.reason


@pytest.mark.ci
@pytest.mark.parametrize("flavour", [CPU, TENSORRT], ids=lambda flavour: flavour.name)
def test_what_lies_below_a_range_ends_on_its_lowest_level(flavour: Flavour) -> None:
    """A byte has one more level below zero than above; with narrow ranges an error affects almost every pixel."""
    network = copy.deepcopy(network_of(EDSR, "pams", "paper"))
    with torch.no_grad():
        for quantiser in quantisers_of(network).values():
            quantiser.alpha.mul_(0.1)
        expected = network(LR)
    actual = run(build_learnt_graph(network, None, 18, flavour), LR, plain=True)
    assert float((actual - expected).abs().gt(1e-5).float().mean()) < 0.05
