"""Units of like size between two layers, where an activation lets a positive factor through: f(c·x) = c·f(x).

    producer   W ← W/s, b ← b/s      consumer   W ← W·s      s = (peak of the unit / largest peak)^1/2

ReLU, LeakyReLU and PReLU stand between, so that the function stays. One scale for all units of a value is made for the
largest; after this the small ones have more of its levels (Nagel et al., Data-Free Quantization, ICCV 2019). Not more
than the root: what a unit gains its readers' weights lose.
"""

from __future__ import annotations

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper

from export.headroom import Chain, homogeneous_chains, measure_graph
from export.proof_inputs import ProofInput
from export.quantise.ends import Ends
from export.quantise.plan import Graph, make_plan

SMALLEST = 1e-3
"""Of a unit's peak, as a share of the largest: a weaker one is not raised further."""


def equalise_units(ends: Ends, patches: torch.Tensor) -> Ends:
    """Return the graph with the units between its layers equalised; peaks are those on the patches."""
    model = onnx.ModelProto()
    model.CopyFrom(ends.graph.model)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    in_eight_bits = {layer.name for layer in make_plan(ends.graph, images=ends.images).layers.values()}
    chains = [chain for chain in homogeneous_chains(model.graph, weights) if in_eight_bits >= _layers(chain)]
    if not chains:
        return ends
    # One by one: a graph for one size of image takes one image.
    peaks = measure_graph(model, [ProofInput(f"patch {n}", lr[None]) for n, lr in enumerate(patches)]).peaks
    for chain in chains:
        peak = peaks[chain.values[-1]].channels
        if peak.shape == (weights[chain.first.input[1]].dims[0],) and peak.max() > 0:
            share = np.where(peak > 0, np.maximum(peak / peak.max(), SMALLEST), 1.0)
            _rescale(chain, weights, np.sqrt(share))
    return Ends(Graph(model), ends.images)


def _layers(chain: Chain) -> set[str]:
    return {chain.first.name, chain.second.name}


def _rescale(chain: Chain, weights: dict[str, onnx.TensorProto], scales: NDArray[np.float64]) -> None:
    for name in chain.first.input[1:]:
        _multiply(weights[name], 1 / scales.reshape(-1, *(1,) * (len(weights[name].dims) - 1)))
    columns = weights[chain.second.input[1]]
    groups = next((entry.i for entry in chain.second.attribute if entry.name == "group"), 1)
    # Row o of a grouped convolution reads the channels of its group only.
    rows = np.repeat(scales.reshape(groups, -1), columns.dims[0] // groups, axis=0)
    _multiply(columns, rows.reshape(*rows.shape, *(1,) * (len(columns.dims) - 2)))


def _multiply(tensor: onnx.TensorProto, factors: NDArray[np.float64]) -> None:
    product = (numpy_helper.to_array(tensor).astype(np.float64) * factors).astype(np.float32)
    tensor.CopyFrom(numpy_helper.from_array(product, tensor.name))
