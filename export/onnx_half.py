"""A float32 ONNX graph in half precision: weights and arithmetic; images go in and come out as before."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from compressor.base.errors import SrkdError
from export.conversion import CannotConvert

FULL = ("sub_mean/", "add_mean/")
"""The mean shift at both ends stays in float32, as in autocast: there, half a grey level would be lost to rounding."""

TYPE_NAMES: dict[int, str] = {TensorProto.FLOAT16: "tensor(float16)", TensorProto.BFLOAT16: "tensor(bfloat16)"}


def to_half(model: onnx.ModelProto, kind: int) -> None:
    """In place. Values keep their names. A weight beyond the range of `kind` is refused, never clamped."""
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    _Pass(inferred, kind).rewrite()
    model.CopyFrom(inferred)


class _Pass:
    """`home` is the type in which each float value is made; where it is wanted in the other, a Cast stands between."""

    def __init__(self, model: onnx.ModelProto, kind: int) -> None:
        self.graph, self.kind = model.graph, kind
        self.opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
        self.weights = {tensor.name: tensor for tensor in self.graph.initializer}
        self.floats = _floats(self.graph)
        self.home: dict[str, int] = {value.name: TensorProto.FLOAT for value in self.graph.input}
        self.nodes: list[onnx.NodeProto] = []
        self.made: dict[tuple[str, int], str] = {}

    def rewrite(self) -> None:
        outputs = {value.name for value in self.graph.output}
        for node in self.graph.node:
            half = self._in_half(node)
            for index, name in enumerate(node.input):
                if name in self.floats:
                    wanted = self.kind if half and self._free(node, index) else TensorProto.FLOAT
                    node.input[index] = self._as(name, wanted)
            self.nodes.append(node)
            if half:
                _retype(node, self.kind)
            for index, name in enumerate(node.output):
                if name in self.floats:
                    self.home[name] = self.kind if half and self._free(node, index, taken=True) else TensorProto.FLOAT
                    if name in outputs and self.home[name] == self.kind:
                        node.output[index] = f"{name}.half"
                        self._cast(f"{name}.half", name, TensorProto.FLOAT)
        del self.graph.node[:]
        self.graph.node.extend(self.nodes)
        self._drop_unused()
        # What was inferred for float32 would contradict.
        del self.graph.value_info[:]

    def _in_half(self, node: onnx.NodeProto) -> bool:
        """Whether the operator knows this precision, and is not one that stays."""
        if node.name.startswith(FULL) or node.domain not in ("", "ai.onnx"):
            return False
        schema = onnx.defs.get_schema(node.op_type, self.opset)
        variables = {entry.type_param_str: entry.allowed_type_strs for entry in schema.type_constraints}
        formal = [(schema.inputs, node.input), (schema.outputs, node.output)]
        used = [_formal(of, i).type_str for of, names in formal for i, name in enumerate(names) if name in self.floats]
        free = [name for name in used if name in variables]
        return bool(free) and all(TYPE_NAMES[self.kind] in variables[name] for name in free)

    def _free(self, node: onnx.NodeProto, index: int, *, taken: bool = False) -> bool:
        """Whether the operator leaves open in what precision this argument is; scales of Resize are float32 always."""
        schema = onnx.defs.get_schema(node.op_type, self.opset)
        formal = _formal(schema.outputs if taken else schema.inputs, index).type_str
        return formal in {entry.type_param_str for entry in schema.type_constraints}

    def _as(self, name: str, kind: int) -> str:
        """The name under which a value is to be had in `kind`."""
        if name in self.weights:
            return name if kind == TensorProto.FLOAT else self._stored(name)
        if self.home[name] == kind:
            return name
        if (name, kind) not in self.made:
            self.made[name, kind] = f"{name}.{'float' if kind == TensorProto.FLOAT else 'half'}"
            self._cast(name, self.made[name, kind], kind)
        return self.made[name, kind]

    def _stored(self, name: str) -> str:
        if (name, self.kind) not in self.made:
            half = _narrowed(self.weights[name], f"{name}.half", self.kind)
            self.graph.initializer.append(half)
            self.made[name, self.kind] = half.name
        return self.made[name, self.kind]

    def _cast(self, given: str, taken: str, kind: int) -> None:
        self.nodes.append(helper.make_node("Cast", [given], [taken], name=f"cast/{taken}", to=kind))

    def _drop_unused(self) -> None:
        """Weights whose float32 nobody wants any more."""
        used = {name for node in self.nodes for name in node.input}
        kept = [tensor for tensor in self.graph.initializer if tensor.name in used]
        stored = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in kept]
        del self.graph.initializer[:]
        self.graph.initializer.extend(stored)


def _floats(graph: onnx.GraphProto) -> set[str]:
    kinds = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for value in (*graph.input, *graph.output, *graph.value_info):
        kinds[value.name] = value.type.tensor_type.elem_type
    unknown = [name for node in graph.node for name in node.output if name and not kinds.get(name)]
    if unknown:
        raise SrkdError(
            f"of what type {unknown[0]} is cannot be inferred, so the graph cannot be had in half precision"
        )
    return {name for name, kind in kinds.items() if kind == TensorProto.FLOAT}


def _formal(parameters: Iterable[onnx.defs.OpSchema.FormalParameter], index: int) -> onnx.defs.OpSchema.FormalParameter:
    """Of argument `index`; the last parameter of a variadic operator stands for all that follow."""
    known = list(parameters)
    return known[min(index, len(known) - 1)]


def _retype(node: onnx.NodeProto, kind: int) -> None:
    """Attributes that say float32."""
    for attribute in node.attribute:
        if attribute.name == "to" and attribute.i == TensorProto.FLOAT:
            attribute.i = kind
        if attribute.t.data_type == TensorProto.FLOAT:
            attribute.t.CopyFrom(_narrowed(attribute.t, attribute.t.name or node.name, kind))


def _narrowed(tensor: onnx.TensorProto, name: str, kind: int) -> onnx.TensorProto:
    exact = numpy_helper.to_array(tensor)
    with np.errstate(over="ignore"):
        half = exact.astype(helper.tensor_dtype_to_np_dtype(kind))
    lost = np.isfinite(exact) & ~np.isfinite(half.astype(np.float32))
    if lost.any():
        raise CannotConvert(f"{tensor.name} holds {float(exact[lost][0]):.4g}: {half.dtype.name} has no such number")
    return numpy_helper.from_array(half, name)
