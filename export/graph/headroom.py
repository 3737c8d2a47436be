"""Headroom of an fp16 file below 65504: measured peaks of its values, and rescaling of channels with too high peaks.

On a GPU a value above 65504 becomes infinite and ruins the result. ONNX Runtime on a CPU computes fp16 in float32, so
such a file would pass there; and some image may give larger values than all of ours. Therefore every value is measured
on every input of the proof, and must stay `HEADROOM` times below the end of the range.

A convolution's output channel c may be divided by 2^k if only ReLU, LeakyReLU or PReLU and one more convolution
follow: f(x / 2^k) = f(x) / 2^k for each of them, and the next convolution's weights of channel c are multiplied by 2^k.
Powers of two change no digit of a weight, so the network's output stays the same.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from compressor.base.context import QUIET, Context
from compressor.base.errors import one_line
from compressor.runtimes.onnx_runtime import cpu_session
from export.formats.conversion import CannotConvert
from export.formats.proof_inputs import ProofInput
from export.graph.onnx_graph import attribute_of

FP16_MAX = 65504.0

HEADROOM = 4.0
"""Factor by which a value may be larger on other images than on our inputs."""

HOMOGENEOUS = ("Relu", "LeakyRelu", "PRelu", "Identity")
"""Operators with f(c x) = c f(x) for c > 0, channel by channel."""


@dataclass(frozen=True)
class Peak:
    """The largest absolute value of a node's output, by channel where it has N, C, H, W, and the input that gave it."""

    node: str
    channels: NDArray[np.float64]
    on: str

    @property
    def largest(self) -> float:
        return float(self.channels.max(initial=0.0))


@dataclass(frozen=True)
class Measurement:
    """The peak of every float value by name, in the order of the graph; and the output for each input."""

    peaks: dict[str, Peak]
    outputs: tuple[torch.Tensor, ...]


def measure_graph(model: onnx.ModelProto, inputs: Sequence[ProofInput], context: Context = QUIET) -> Measurement:
    """Run a float32 graph on all inputs, and return the peaks of its values and its outputs."""
    session, names = _reducing_session(model)
    source, output = model.graph.input[0].name, model.graph.output[0].name
    producers = {name: node.name for node in model.graph.node for name in node.output}
    peaks: dict[str, Peak] = {}
    outputs = []
    for sample in context.each("measure", inputs):
        with one_line(f"the graph fails on {sample.name}", first=True):
            image, *results = session.run([output, *(f"{name}.peak" for name in names)], {source: sample.lr.numpy()})
        outputs.append(torch.from_numpy(np.asarray(image)))
        for name, result in zip(names, results, strict=True):
            channels = np.asarray(result, np.float64).reshape(-1)
            channels = np.where(np.isnan(channels), math.inf, channels)
            previous = peaks.get(name)
            if previous is None:
                peaks[name] = Peak(producers[name], channels, sample.name)
                continue
            on = sample.name if channels.max(initial=0.0) > previous.largest else previous.on
            # An operator's number of axes or channels may depend on the image size.
            if channels.shape == previous.channels.shape:
                both = np.maximum(channels, previous.channels)
            else:
                both = np.array([max(channels.max(), previous.largest)])
            peaks[name] = Peak(previous.node, both, on)
    return Measurement(peaks, tuple(outputs))


def _reducing_session(model: onnx.ModelProto) -> tuple[Any, list[str]]:
    """A session of the graph with the peaks as further outputs, so that no whole value leaves it, and the names
    of the measured values."""
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    ranks = {
        value.name: len(value.type.tensor_type.shape.dim) if value.type.tensor_type.HasField("shape") else 0
        for value in (*inferred.graph.value_info, *inferred.graph.output)
        if value.type.tensor_type.elem_type == TensorProto.FLOAT
    }
    names = [output for node in inferred.graph.node for output in node.output if output in ranks]
    graph = inferred.graph
    graph.initializer.append(numpy_helper.from_array(np.array([0, 2, 3], np.int64), "peak.axes"))
    outputs = []
    for name in names:
        graph.node.append(helper.make_node("Abs", [name], [f"{name}.abs"]))
        axes = ["peak.axes"] if ranks[name] == 4 else []
        graph.node.append(helper.make_node("ReduceMax", [f"{name}.abs", *axes], [f"{name}.peak"], keepdims=0))
        outputs.append(onnx.ValueInfoProto(name=f"{name}.peak"))
    graph.output.extend(outputs)
    with one_line("the graph cannot be measured", first=True):
        return cpu_session(inferred, threads=torch.get_num_threads()), names


def require_headroom(peaks: Mapping[str, Peak], in_half: Collection[str]) -> float:
    """Return the ratio of 65504 to the largest of the values `in_half`; refuse a ratio below `HEADROOM`."""
    half = [peak for name, peak in peaks.items() if name in in_half]
    for peak in half:
        if not peak.largest * HEADROOM <= FP16_MAX:
            raise CannotConvert(
                f"{peak.node} reaches {peak.largest:.4g} on {peak.on}: fp16 ends at {FP16_MAX:.0f}, and the file needs "
                f"{HEADROOM:g} times the room, as other images may drive it higher; take --bf16 or --onnx"
            )
    largest = max((peak.largest for peak in half), default=0.0)
    return FP16_MAX / largest if largest else math.inf


def rescale_channels(model: onnx.ModelProto, peaks: dict[str, Peak]) -> int:
    """Rescale the channels that come too near to the end of fp16, if that is exact; return how many were rescaled.

    Values between the two convolutions then differ from those of torch's program, so they are renamed, also in `peaks`.
    """
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    count = 0
    for chain in homogeneous_chains(model.graph, weights):
        exponents = _exponents(chain, weights, peaks)
        if exponents.any() and _rescale_weights(chain, weights, exponents):
            _rename_values(model.graph, chain, peaks, exponents)
            count += int(np.count_nonzero(exponents))
    return count


@dataclass(frozen=True)
class Chain:
    """Two convolutions with homogeneous operators between them, and the names of the values there."""

    first: onnx.NodeProto
    second: onnx.NodeProto
    values: tuple[str, ...]


def homogeneous_chains(graph: onnx.GraphProto, weights: Mapping[str, onnx.TensorProto]) -> Iterator[Chain]:
    users: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    outputs = {value.name for value in graph.output}
    for first in list(graph.node):
        if first.op_type != "Conv" or not _stored_alone(first, weights, users):
            continue
        values = [first.output[0]]
        while len(users.get(values[-1], ())) == 1 and values[-1] not in outputs:
            (node,) = users[values[-1]]
            if node.op_type == "Conv" and node.input[0] == values[-1]:
                if _stored_alone(node, weights, users):
                    yield Chain(first, node, tuple(values))
                break
            if node.op_type not in HOMOGENEOUS or node.input[0] != values[-1]:
                break
            values.append(node.output[0])


def _stored_alone(
    conv: onnx.NodeProto, weights: Mapping[str, onnx.TensorProto], users: Mapping[str, Sequence[onnx.NodeProto]]
) -> bool:
    """Whether weight and bias are float32, stored in the file, and used by this node only."""
    return all(
        name in weights and weights[name].data_type == TensorProto.FLOAT and len(users[name]) == 1
        for name in conv.input[1:]
    )


def _exponents(chain: Chain, weights: Mapping[str, onnx.TensorProto], peaks: Mapping[str, Peak]) -> NDArray[np.int64]:
    """For each channel the exponent k of the 2^k to divide by; 0 if the channel has enough headroom in fp16."""
    weight = numpy_helper.to_array(weights[chain.first.input[1]])
    channels = len(weight)
    peak = np.zeros(channels)
    for name in chain.values:
        if name not in peaks or peaks[name].channels.shape != (channels,) or not np.isfinite(peaks[name].largest):
            return np.zeros(channels, np.int64)
        peak = np.maximum(peak, peaks[name].channels)
    largest_weight = np.abs(weight).reshape(channels, -1).max(axis=1).astype(np.float64)
    if len(chain.first.input) > 2:
        largest_weight = np.maximum(largest_weight, np.abs(numpy_helper.to_array(weights[chain.first.input[2]])))
    limit = FP16_MAX / HEADROOM
    high = (peak > limit) | (largest_weight > FP16_MAX)
    # A channel that is too large is reduced to the median of the others, and stays clear of the limit.
    target = min(float(np.median(peak[~high])) if (~high).any() else limit, limit / HEADROOM) or 1.0
    excess = np.maximum(peak / target, largest_weight / (FP16_MAX / HEADROOM))
    exponents: NDArray[np.int64] = np.where(high, np.ceil(np.log2(np.maximum(excess, 1.0))), 0).astype(np.int64)
    return exponents


def _rescale_weights(chain: Chain, weights: Mapping[str, onnx.TensorProto], exponents: NDArray[np.int64]) -> bool:
    """Divide the rows of the first convolution and multiply the columns of the second; return True. If a weight would
    lose digits, change nothing and return False."""
    changed: dict[str, NDArray[np.float32]] = {}
    for name in chain.first.input[1:]:
        old = numpy_helper.to_array(weights[name])
        powers = -exponents.reshape(-1, *(1,) * (old.ndim - 1))
        changed[name] = _times_power(old, powers)
        if not np.array_equal(_times_power(changed[name], -powers), old):
            return False
    name = chain.second.input[1]
    old = numpy_helper.to_array(weights[name])
    groups = attribute_of(chain.second, "group", 1)
    # Row o of a grouped convolution reads the channels of its group only.
    columns = np.repeat(exponents.reshape(groups, -1), len(old) // groups, axis=0)
    powers = columns.reshape(*old.shape[:2], *(1,) * (old.ndim - 2))
    changed[name] = _times_power(old, powers)
    if not np.array_equal(_times_power(changed[name], -powers), old):
        return False
    for name, values in changed.items():
        weights[name].CopyFrom(numpy_helper.from_array(values, name))
    return True


def _times_power(values: NDArray[np.float32], powers: NDArray[np.int64]) -> NDArray[np.float32]:
    with np.errstate(over="ignore", under="ignore"):
        product: NDArray[np.float32] = np.ldexp(values, powers).astype(np.float32)
    return product


def _rename_values(graph: onnx.GraphProto, chain: Chain, peaks: dict[str, Peak], exponents: NDArray[np.int64]) -> None:
    renamed = {name: f"{name}.rescaled" for name in chain.values}
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    for value in graph.value_info:
        value.name = renamed.get(value.name, value.name)
    for old, new in renamed.items():
        peak = peaks.pop(old)
        peaks[new] = Peak(peak.node, np.ldexp(peak.channels, -exponents), peak.on)
