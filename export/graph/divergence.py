"""The search for the first node of an ONNX file whose value differs from the network's.

The exporter names the values of a graph after the torch operations that compute them. ONNX Runtime and torch compute
each value, and the values are compared in the order of the file.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch.export.graph_signature import InputKind

from compressor.base.context import QUIET, Context
from compressor.base.errors import one_line
from compressor.models.networks.base import Network
from compressor.runtimes.onnx_file import emulate_half, set_nodes, weight_precision
from compressor.runtimes.onnx_runtime import cpu_session
from export.formats.conversion import INPUT, OUTPUT, FileOptions
from export.graph.onnx_graph import OPSET, trace

BATCH_OF_VALUES = 24
"""Number of values held in memory at the same time: the features of a whole network would not fit."""

NOISE = {"fp32": 1e-5, "fp16": 1e-2, "bf16": 8e-2}
"""Largest relative error of a value that rounding alone explains, by the precision of most weights."""

JUMP = 10.0
"""A node adds an error of its own if its relative error is this many times the largest error before it."""


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
    model: onnx.ModelProto, network: Network, lr: torch.Tensor, options: FileOptions, context: Context = QUIET
) -> Divergence | None:
    """The first node that differs by more than rounding; None if no node does, or none can be compared."""
    precision = weight_precision(model)
    noise = NOISE.get(precision, NOISE["fp32"])
    if precision in ("fp16", "bf16"):
        model = emulate_half(model)
    if options.io == "uint8":
        _use_float_images(model)
    program = _Program(network, options)
    values = _comparable_values(model, program.names)
    largest = 0.0
    for done in range(0, len(values), BATCH_OF_VALUES):
        context.progress("look for the first node", done, len(values))
        for value, error in _errors(model, program, values[done : done + BATCH_OF_VALUES], lr):
            if error > max(noise, JUMP * largest):
                return Divergence(value.node, value.operator, error, largest)
            largest = max(largest, error)
    return None


class _FileValue(NamedTuple):
    """A value of the file, the node that computes it, and its name in torch's program."""

    name: str
    node: str
    operator: str
    torch_name: str


class _Program:
    """The network as torch's exporter traced it, run operation by operation."""

    def __init__(self, network: Network, options: FileOptions) -> None:
        exported = trace(network, options.lr_size, opset=OPSET).exported_program
        assert exported is not None  # the exporter that traces always sets it
        self._exported = exported
        (last,) = (node for node in self._exported.graph.nodes if node.op == "output")
        self.last = str(last.args[0][0].name)
        self.names = {node.name: node.name for node in self._exported.graph.nodes if node.op == "call_function"}
        self.names[OUTPUT] = self.names[f"{OUTPUT}.float"] = self.last

    def values(self, names: set[str], lr: torch.Tensor) -> dict[str, torch.Tensor]:
        exported, recorder = self._exported, _Recorder(self._exported.graph_module, names)
        stored = {**exported.constants, **exported.state_dict}
        inputs = exported.graph_signature.input_specs
        with torch.no_grad():
            recorder.run(*(lr if spec.kind == InputKind.USER_INPUT else stored[str(spec.target)] for spec in inputs))
        return recorder.values


class _Recorder(torch.fx.Interpreter):
    def __init__(self, module: torch.fx.GraphModule, names: set[str]) -> None:
        super().__init__(module)
        self.names, self.values = names, dict[str, torch.Tensor]()

    def run_node(self, n: torch.fx.Node) -> object:
        if n.op == "call_function" and "assert" in n.name:
            return None  # about the sizes that it was traced with
        value = super().run_node(n)
        if n.name in self.names and isinstance(value, torch.Tensor) and value.is_floating_point():
            self.values[n.name] = value.detach()
        return value


def _use_float_images(model: onnx.ModelProto) -> None:
    """Make the input and the output float images instead of bytes, and remove the nodes that convert them."""
    graph = model.graph
    set_nodes(graph, [node for node in graph.node if not node.name.startswith("bytes/")])
    for value, name in ((graph.input[0], INPUT), (graph.output[0], OUTPUT)):
        n, h, w, c = (dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim)
        value.CopyFrom(onnx.helper.make_tensor_value_info(f"{name}.float", onnx.TensorProto.FLOAT, [n, c, h, w]))


def _comparable_values(model: onnx.ModelProto, names: Mapping[str, str]) -> list[_FileValue]:
    """The values in the order of the file. A cast's value is attributed to the node whose result it casts."""
    producers = {output: node for node in model.graph.node for output in node.output}
    values = []
    for node in model.graph.node:
        for output in node.output:
            if output in names:
                origin = node
                while origin.op_type == "Cast" and origin.input[0] in producers:
                    origin = producers[origin.input[0]]
                values.append(_FileValue(output, origin.name, origin.op_type, names[output]))
    return values


def _errors(
    model: onnx.ModelProto, program: _Program, values: Sequence[_FileValue], lr: torch.Tensor
) -> Iterator[tuple[_FileValue, float]]:
    """Yield each value that the file and the network have in the same shape, with its relative error."""
    of_file = _run(model, [value.name for value in values], lr)
    of_network = program.values({value.torch_name for value in values}, lr)
    for value in values:
        actual, expected = of_file[value.name], of_network.get(value.torch_name)
        if expected is None or tuple(expected.shape) != actual.shape or actual.dtype != np.float32:
            continue
        yield value, _relative_error(actual, expected.numpy())


def _run(model: onnx.ModelProto, names: Sequence[str], lr: torch.Tensor) -> dict[str, NDArray[np.float32]]:
    """The values of these names, whether or not they are outputs of the graph."""
    extended = copy.deepcopy(model)
    present = {value.name for value in model.graph.output}
    extended.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in present)
    with one_line("the file cannot be run value by value", first=True):
        session = cpu_session(extended, optimised=False)  # optimisation may remove values
        outputs = session.run(list(names), {model.graph.input[0].name: lr.numpy()})
    return {name: np.asarray(output) for name, output in zip(names, outputs, strict=True)}


def _relative_error(actual: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    if not np.isfinite(actual).all():
        return math.inf
    size = float(np.sqrt(np.square(expected, dtype=np.float64).mean()))
    error = float(np.sqrt(np.square(actual.astype(np.float64) - expected).mean()))
    return error / size if size else (0.0 if not error else math.inf)
