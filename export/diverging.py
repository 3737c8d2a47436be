"""Where an ONNX file first does something else than the network: value by value, against torch's own program.

The exporter calls the values of a graph as torch calls the operations they come from; each is computed by both, in the
order of the file.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch.export.graph_signature import InputKind

from compressor.base.context import Progress, no_progress
from compressor.base.errors import one_line
from compressor.models.networks.base import Network
from compressor.runtimes.onnx_file import emulate_half, has_half_weights
from export.conversion import Choices
from export.onnx_graph import INPUT, OUTPUT, trace
from export.to_onnx import OPSET

AT_ONCE = 24
"""Values that are held at the same time: features of a whole network would not fit."""

NOISE: Mapping[int, float] = {
    onnx.TensorProto.FLOAT: 1e-5,
    onnx.TensorProto.FLOAT16: 1e-2,
    onnx.TensorProto.BFLOAT16: 8e-2,
}
"""Relative error of a value, in the precision of most weights, that rounding alone explains."""

JUMP = 10.0
"""A node whose relative error is this many times the largest before it has added some of its own."""


@dataclass(frozen=True)
class Divergence:
    """The first node whose value is not the network's. Errors are relative, root mean square."""

    node: str
    operator: str
    error: float
    before: float

    def __str__(self) -> str:
        what = "is not finite" if math.isinf(self.error) else f"is off by {self.error:.1e} of its size"
        return f"it begins at node {self.node} ({self.operator}), whose output {what}; before it {self.before:.1e}"


def first_divergence(
    path: Path, network: Network, lr: torch.Tensor, choices: Choices, progress: Progress = no_progress
) -> Divergence | None:
    """None where no value can be compared, or none differs by more than rounding does."""
    model = onnx.load_model(str(path))
    noise = NOISE[_kind(model)]
    model = _open_inside(model, choices)
    program = _Program(network, choices)
    values = _comparable(model, program.names)
    largest = 0.0
    for done in range(0, len(values), AT_ONCE):
        progress("look for the first node", done, len(values))
        for value, error in _errors(model, program, values[done : done + AT_ONCE], lr):
            if error > max(noise, JUMP * largest):
                return Divergence(value.node, value.operator, error, largest)
            largest = max(largest, error)
    return None


@dataclass(frozen=True)
class _Value:
    """A value of the file, the node it comes out of, and what torch's program calls it."""

    name: str
    node: str
    operator: str
    in_torch: str


class _Program:
    """The network as torch's exporter saw it, run operation by operation."""

    def __init__(self, network: Network, choices: Choices) -> None:
        exported = trace(network, choices.lr_size, opset=OPSET).exported_program
        assert exported is not None  # it is kept by the exporter that traces
        self._exported = exported
        (last,) = (node for node in self._exported.graph.nodes if node.op == "output")
        self.last = str(last.args[0][0].name)
        self.names = {node.name: node.name for node in self._exported.graph.nodes if node.op == "call_function"}
        self.names[OUTPUT] = self.names[f"{OUTPUT}.float"] = self.last

    def values(self, names: set[str], lr: torch.Tensor) -> dict[str, torch.Tensor]:
        recorder = _Recorder(self._exported.graph_module, names)
        with torch.no_grad():
            recorder.run(*self._arguments(lr))
        return recorder.kept

    def _arguments(self, lr: torch.Tensor) -> Iterator[object]:
        for spec in self._exported.graph_signature.input_specs:
            if spec.kind == InputKind.USER_INPUT:
                yield lr
            elif spec.target in self._exported.state_dict:
                yield self._exported.state_dict[spec.target]
            else:
                yield self._exported.constants[str(spec.target)]


class _Recorder(torch.fx.Interpreter):
    def __init__(self, module: torch.fx.GraphModule, names: set[str]) -> None:
        super().__init__(module)
        self.names, self.kept = names, dict[str, torch.Tensor]()

    def run_node(self, n: torch.fx.Node) -> object:
        if n.op == "call_function" and "assert" in n.name:
            return None  # about the sizes that it was traced with
        value = super().run_node(n)
        if n.name in self.names and isinstance(value, torch.Tensor) and value.is_floating_point():
            self.kept[n.name] = value.detach()
        return value


def _kind(model: onnx.ModelProto) -> int:
    """The precision of most weights."""
    sizes = dict.fromkeys(NOISE, 0)
    for tensor in model.graph.initializer:
        if tensor.data_type in sizes and len(tensor.dims) > 1:
            sizes[tensor.data_type] += math.prod(tensor.dims)
    return max(sizes, key=lambda kind: sizes[kind])


def _open_inside(model: onnx.ModelProto, choices: Choices) -> onnx.ModelProto:
    """Half precision with every result rounded; bytes as the floats that lie between them."""
    if has_half_weights(model):
        model = emulate_half(model)
    if choices.io == "uint8":
        graph = model.graph
        kept = [node for node in graph.node if not node.name.startswith("bytes/")]
        del graph.node[:]
        graph.node.extend(kept)
        for value, name in ((graph.input[0], INPUT), (graph.output[0], OUTPUT)):
            n, h, w, c = (dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim)
            value.CopyFrom(onnx.helper.make_tensor_value_info(f"{name}.float", onnx.TensorProto.FLOAT, [n, c, h, w]))
    return model


def _comparable(model: onnx.ModelProto, names: Mapping[str, str]) -> list[_Value]:
    """In the order of the file; a rounding belongs to the node whose result it rounds."""
    producers = {output: node for node in model.graph.node for output in node.output}
    found = []
    for node in model.graph.node:
        for output in node.output:
            if output in names:
                named = _origin(output, producers)
                found.append(_Value(output, named.name, named.op_type, names[output]))
    return found


def _origin(value: str, producers: Mapping[str, onnx.NodeProto]) -> onnx.NodeProto:
    """The node that computes a value, behind the casts that only change its type."""
    node = producers[value]
    while node.op_type == "Cast" and node.input[0] in producers:
        node = producers[node.input[0]]
    return node


def _errors(
    model: onnx.ModelProto, program: _Program, values: Sequence[_Value], lr: torch.Tensor
) -> Iterator[tuple[_Value, float]]:
    theirs = _run(model, [value.name for value in values], lr)
    ours = program.values({value.in_torch for value in values}, lr)
    for value in values:
        got, wanted = theirs[value.name], ours.get(value.in_torch)
        if wanted is None or tuple(wanted.shape) != got.shape or got.dtype != np.float32:
            continue
        yield value, _relative(got, wanted.numpy())


def _run(model: onnx.ModelProto, names: Sequence[str], lr: torch.Tensor) -> dict[str, NDArray[np.float32]]:
    """The values of these names, whatever else the graph gives."""
    asking = onnx.ModelProto()
    asking.CopyFrom(model)
    present = {value.name for value in model.graph.output}
    asking.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in present)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    # Optimised, values that were asked for can be gone.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    with one_line("the file cannot be run value by value", first=True):
        session = onnxruntime.InferenceSession(
            asking.SerializeToString(), options, providers=["CPUExecutionProvider"], enable_fallback=0
        )
        outputs = session.run(list(names), {model.graph.input[0].name: lr.numpy()})
    return {name: np.asarray(output) for name, output in zip(names, outputs, strict=True)}


def _relative(got: NDArray[np.float32], wanted: NDArray[np.float32]) -> float:
    if not np.isfinite(got).all():
        return math.inf
    size = float(np.sqrt(np.square(wanted, dtype=np.float64).mean()))
    error = float(np.sqrt(np.square(got.astype(np.float64) - wanted).mean()))
    return error / size if size else (0.0 if not error else math.inf)
