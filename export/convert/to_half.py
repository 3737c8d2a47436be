"""ONNX with weights and arithmetic in fp16 or bf16; images stay float32, so an app only changes the file's name, or are
float16 with `--io fp16`.

The graph of the float32 file is rewritten: values keep their names, and a Cast is inserted where a value is needed in
the other type. fp16 ends at 65504: a file without headroom is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from compressor.base.errors import SrkdError
from compressor.runtimes.onnx_file import drop_unused, set_nodes
from compressor.runtimes.torch_runtime import TorchRuntime
from export.convert.to_onnx import write_graph
from export.formats.conversion import CannotConvert, Conversion
from export.formats.proof_inputs import ProofInput, proof_inputs
from export.formats.table import FORMATS
from export.graph.headroom import measure_graph, require_headroom
from export.graph.onnx_graph import shared_graph
from export.proof.verify import NOT_FINITE, compare

TYPES: Mapping[str, tuple[int, int]] = {"fp16": (TensorProto.FLOAT16, 18), "bf16": (TensorProto.BFLOAT16, 22)}
"""ONNX's type and opset by precision: for fp16 as for float32, for bf16 the first with its convolutions."""

FLOAT_NODES = ("sub_mean/", "add_mean/")
"""Nodes of the mean shift at both ends stay in float32, as in autocast: rounding would cost half a grey level."""

TYPE_NAMES: dict[int, str] = {TensorProto.FLOAT16: "tensor(float16)", TensorProto.BFLOAT16: "tensor(bfloat16)"}


def convert(job: Conversion) -> Mapping[str, object]:
    half_type, opset = TYPES[job.format]
    graph = shared_graph(job.network, job.options.lr_size, opset, job.context)
    inputs = job.inputs or proof_inputs(replace(job.network.descriptor, fixed_size=job.options.lr_size))
    peaks, outputs = measure_graph(graph, inputs, job.context)
    _require_equal(job, inputs, outputs)
    if half_type == TensorProto.BFLOAT16:  # its range is that of float32
        to_half(graph, half_type)
        return write_graph(job, graph)
    in_half = to_half(graph, half_type, images=job.options.io == "fp16")
    headroom = require_headroom(peaks, in_half)
    return {**write_graph(job, graph), "headroom": round(headroom, 1)}


def _require_equal(job: Conversion, inputs: Sequence[ProofInput], outputs: Sequence[torch.Tensor]) -> None:
    """Refuse a graph that differs from the network before it is rounded.

    The bounds of half precision allow for rounding: a weight of a weak layer could be wrong by a fifth and pass.
    """
    run = TorchRuntime(job.network, label="the network").run
    for sample, output in zip(inputs, outputs, strict=True):
        expected = run(sample.lr)
        if not expected.isfinite().all():
            raise SrkdError(NOT_FINITE.format(sample.name))
        reason = compare(sample, output, expected, FORMATS["onnx"].bounds, run).reason
        if reason is not None:
            raise SrkdError(f"before it is rounded, it {reason}")


def to_half(model: onnx.ModelProto, half_type: int, *, images: bool = False) -> set[str]:
    """Rewrite a model in place; return the names of the values that are now in half precision. With `images`, its input
    and output are, too.

    A weight beyond the range of the type is refused, never clamped.
    """
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    in_half = _HalfPass(inferred, half_type, half_type if images else TensorProto.FLOAT).rewrite()
    model.CopyFrom(inferred)
    return in_half


class _HalfPass:
    """One pass over the nodes in order. `types` holds the type in which each float value is computed."""

    def __init__(self, model: onnx.ModelProto, half_type: int, image_type: int) -> None:
        self.graph, self.half_type, self.image_type = model.graph, half_type, image_type
        self.opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
        self.weights = {tensor.name: tensor for tensor in self.graph.initializer}
        self.floats = _floats(self.graph)
        self.types: dict[str, int] = dict.fromkeys((value.name for value in self.graph.input), image_type)
        self.nodes: list[onnx.NodeProto] = []
        self.copies: dict[tuple[str, int], str] = {}

    def rewrite(self) -> set[str]:
        outputs = {value.name for value in self.graph.output}
        for node in self.graph.node:
            half = self._supports_half(node)
            for index, name in enumerate(node.input):
                if name in self.floats:
                    required = self.half_type if half and self._is_generic(node, index) else TensorProto.FLOAT
                    node.input[index] = self._value_in(name, required, node.name)
            self.nodes.append(node)
            if half:
                _retype(node, self.half_type)
            for index, name in enumerate(node.output):
                if name in self.floats:
                    in_half = half and self._is_generic(node, index, output=True)
                    self.types[name] = self.half_type if in_half else TensorProto.FLOAT
                    if name in outputs and self.types[name] != self.image_type:
                        node.output[index] = _copy_name(name, self.types[name])
                        self._cast(node.output[index], name, self.image_type)
        for value in (*self.graph.input, *self.graph.output):
            value.type.tensor_type.elem_type = self.image_type
        set_nodes(self.graph, self.nodes)
        drop_unused(self.graph)  # the weights in float32, and types inferred for them
        halves = {name for name, kind in (*self.types.items(), *self.copies) if kind == self.half_type}
        return halves | (outputs if self.image_type == self.half_type else set())

    def _supports_half(self, node: onnx.NodeProto) -> bool:
        """Whether a node's operator supports this precision and is not to stay in float32."""
        if node.name.startswith(FLOAT_NODES) or node.domain not in ("", "ai.onnx"):
            return False
        schema = onnx.defs.get_schema(node.op_type, self.opset)
        variables = {entry.type_param_str: entry.allowed_type_strs for entry in schema.type_constraints}
        formal = [(schema.inputs, node.input), (schema.outputs, node.output)]
        used = [
            _parameter(parameters, index).type_str
            for parameters, names in formal
            for index, name in enumerate(names)
            if name in self.floats
        ]
        generic = [name for name in used if name in variables]
        return bool(generic) and all(TYPE_NAMES[self.half_type] in variables[name] for name in generic)

    def _is_generic(self, node: onnx.NodeProto, index: int, *, output: bool = False) -> bool:
        """Whether the operator takes this argument in several types; the scales of Resize are always float32."""
        schema = onnx.defs.get_schema(node.op_type, self.opset)
        type_name = _parameter(schema.outputs if output else schema.inputs, index).type_str
        return type_name in {entry.type_param_str for entry in schema.type_constraints}

    def _value_in(self, name: str, kind: int, user: str) -> str:
        """The name of a value in the type `kind`; the first time, cast it or store the converted weight."""
        if kind == (TensorProto.FLOAT if name in self.weights else self.types[name]):
            return name
        if (name, kind) not in self.copies:
            copy = self.copies[name, kind] = _copy_name(name, kind)
            if name in self.weights:
                self.graph.initializer.append(_round_tensor(self.weights[name], copy, kind, user))
            else:
                self._cast(name, copy, kind)
        return self.copies[name, kind]

    def _cast(self, source: str, output: str, kind: int) -> None:
        self.nodes.append(helper.make_node("Cast", [source], [output], name=f"cast/{output}", to=kind))


def _copy_name(name: str, kind: int) -> str:
    """The name of a value in the other type."""
    return f"{name}.{'float' if kind == TensorProto.FLOAT else 'half'}"


def _floats(graph: onnx.GraphProto) -> set[str]:
    kinds = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for value in (*graph.input, *graph.output, *graph.value_info):
        kinds[value.name] = value.type.tensor_type.elem_type
    unknown = [name for node in graph.node for name in node.output if name and not kinds.get(name)]
    if unknown:
        raise SrkdError(
            f"the type of {unknown[0]} cannot be inferred, so the graph cannot be rewritten in half precision"
        )
    return {name for name, kind in kinds.items() if kind == TensorProto.FLOAT}


def _parameter(
    parameters: Iterable[onnx.defs.OpSchema.FormalParameter], index: int
) -> onnx.defs.OpSchema.FormalParameter:
    """The formal parameter of argument `index`; a variadic operator's last one covers all that follow."""
    listed = list(parameters)
    return listed[min(index, len(listed) - 1)]


def _retype(node: onnx.NodeProto, kind: int) -> None:
    """Change the attributes that name float32 or hold float32 values to the type `kind`."""
    for attribute in node.attribute:
        if attribute.name == "to" and attribute.i == TensorProto.FLOAT:
            attribute.i = kind
        if attribute.t.data_type == TensorProto.FLOAT:
            attribute.t.CopyFrom(_round_tensor(attribute.t, attribute.t.name, kind, node.name))


def _round_tensor(tensor: onnx.TensorProto, name: str, kind: int, user: str) -> onnx.TensorProto:
    """Return the tensor rounded to the type `kind`; refuse a value beyond its range."""
    exact = numpy_helper.to_array(tensor)
    with np.errstate(over="ignore"):
        half = exact.astype(helper.tensor_dtype_to_np_dtype(kind))
    lost = np.isfinite(exact) & ~np.isfinite(half.astype(np.float32))
    if lost.any():
        value, where = float(exact[lost][0]), tensor.name or "a constant"
        raise CannotConvert(f"{user} has {value:.4g} in {where}: {half.dtype.name} has no such number")
    return numpy_helper.from_array(half, name)
