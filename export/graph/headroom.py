"""Headroom of an fp16 file below 65504: the largest of every value, measured on the images of the proof.

On a GPU a value above 65504 becomes infinite and ruins the result. ONNX Runtime on a CPU computes fp16 in float32, so
such a file would pass there; and some image may give larger values than all of ours. So every value must stay
`HEADROOM` times below the end of the range.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
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

FP16_MAX = 65504.0

HEADROOM = 4.0
"""Factor by which a value may be larger on other images than on our inputs."""


@dataclass(frozen=True)
class Peak:
    """The largest absolute value of a node's output, by channel where it has N, C, H, W, and the input that gave it."""

    node: str
    channels: NDArray[np.float64]
    on: str

    @property
    def largest(self) -> float:
        return float(self.channels.max(initial=0.0))


def measure_graph(
    model: onnx.ModelProto, inputs: Sequence[ProofInput], context: Context = QUIET
) -> tuple[dict[str, Peak], tuple[torch.Tensor, ...]]:
    """The peak of every float value of a float32 graph by name, in the graph's order, and the output for each input."""
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
            channels = np.nan_to_num(np.asarray(result, np.float64).reshape(-1), nan=math.inf, posinf=math.inf)
            previous = peaks.setdefault(name, Peak(producers[name], channels, sample.name))
            on = sample.name if channels.max(initial=0.0) > previous.largest else previous.on
            # An operator's number of axes or channels may depend on the image size.
            if channels.shape == previous.channels.shape:
                both = np.maximum(channels, previous.channels)
            else:
                both = np.array([max(channels.max(), previous.largest)])
            peaks[name] = Peak(previous.node, both, on)
    return peaks, tuple(outputs)


def _reducing_session(model: onnx.ModelProto) -> tuple[Any, list[str]]:
    """A session whose further outputs are the peaks, so that no whole value leaves it, and the names of the values."""
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    graph = inferred.graph
    ranks = {
        value.name: len(value.type.tensor_type.shape.dim) if value.type.tensor_type.HasField("shape") else 0
        for value in (*graph.value_info, *graph.output)
        if value.type.tensor_type.elem_type == TensorProto.FLOAT
    }
    names = [output for node in graph.node for output in node.output if output in ranks]
    graph.initializer.append(numpy_helper.from_array(np.array([0, 2, 3], np.int64), "peak.axes"))
    for name in names:
        axes = ["peak.axes"] if ranks[name] == 4 else []
        graph.node.append(helper.make_node("Abs", [name], [f"{name}.abs"]))
        graph.node.append(helper.make_node("ReduceMax", [f"{name}.abs", *axes], [f"{name}.peak"], keepdims=0))
        graph.output.append(onnx.ValueInfoProto(name=f"{name}.peak"))
    with one_line("the graph cannot be measured", first=True):
        return cpu_session(inferred, threads=torch.get_num_threads()), names


def fp16_line(peaks: Mapping[str, Peak]) -> str:
    """Say whether the network can be computed in fp16, by the largest of all its values."""
    peak = max(peaks.values(), key=lambda peak: peak.largest)
    room = FP16_MAX / max(peak.largest, 1e-9)
    largest = f"{peak.node} reaches {peak.largest:.4g} on {peak.on}"
    if room < HEADROOM:
        return f"not fp16 safe: {largest}, and fp16 ends at {FP16_MAX:.0f}: use bf16 or fp32"
    return f"fp16 safe: {largest}, {room:,.0f} times below the end of fp16"


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
