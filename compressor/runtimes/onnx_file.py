"""What an ONNX file says before it is run: precision, metadata, and whether all of it is there.

A half-precision ONNX file as float32 arithmetic with every result rounded, as hardware rounds it.

ONNX Runtime on a CPU computes an fp16 file in float32 from end to end: what overflows on every GPU passes there. bf16
it does not compute at all. Rounding each result makes both tell the truth, slowly.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from compressor.base.errors import SrkdError, one_line

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class OnnxFacts:
    """What the file says that a session does not. `precision` is what most weights are stored in."""

    precision: str
    metadata: Mapping[str, str]


def read_facts(path: Path) -> OnnxFacts:
    """Weights kept outside the file are looked for, not read; what is no ONNX ends here, in one line."""
    import onnx

    if not path.is_file():
        raise SrkdError(f"{path}: no such file")
    with one_line(f"{path} is not an ONNX file", first=True):
        model = onnx.load_model(str(path), load_external_data=False)
        metadata = {prop.key: prop.value for prop in model.metadata_props if prop.key.startswith("srkd.")}
        facts = OnnxFacts(_precision(model), metadata)
    if not model.graph.node:
        raise SrkdError(f"{path} is not an ONNX file: it holds no nodes")
    _require_companions(model, path)
    return facts


def _require_companions(model: onnx.ModelProto, path: Path) -> None:
    """The files that a model keeps its weights in lie beside it, and reach as far as it says."""
    import onnx

    for tensor in model.graph.initializer:
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        told = {entry.key: entry.value for entry in tensor.external_data}
        name = told.get("location", "")
        plain = PurePosixPath(name)
        if not name or plain.is_absolute() or ".." in plain.parts:
            raise SrkdError(f"{path} keeps {tensor.name} in {name!r}, which is not beside it: refused")
        file = path.parent / name
        if not file.is_file():
            raise SrkdError(f"{path} keeps its weights in {name}, which is not beside it: put both in one folder")
        with one_line(f"{path} does not say where in {name} {tensor.name} is", first=True):
            end = int(told.get("offset", "0")) + int(told.get("length", "0"))
        if file.stat().st_size < end:
            raise SrkdError(f"{file} has {file.stat().st_size} bytes: {tensor.name} of {path.name} ends at {end}")


def _precision(model: onnx.ModelProto) -> str:
    import onnx

    names: dict[int, str] = {onnx.TensorProto.FLOAT16: "fp16", onnx.TensorProto.BFLOAT16: "bf16"}
    names |= {onnx.TensorProto.INT8: "int8", onnx.TensorProto.UINT8: "int8"}
    sizes: Counter[str] = Counter()
    for tensor in model.graph.initializer:
        if len(tensor.dims) > 1:
            sizes[names.get(tensor.data_type, "fp32")] += int(np.prod(tensor.dims, dtype=np.float64))
    return sizes.most_common(1)[0][0] if sizes else "fp32"


HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)

EXACT = frozenset(
    {
        *(
            "Abs",
            "Concat",
            "Constant",
            "ConstantOfShape",
            "DepthToSpace",
            "Expand",
            "Flatten",
            "Gather",
            "Identity",
            "Max",
        ),
        *("MaxPool", "Min", "Neg", "Relu", "Reshape", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile"),
        *("Transpose", "Unsqueeze", "Where"),
    }
)
"""What only moves or chooses values: what was rounded before needs no rounding after."""


def rounded(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in float32, inputs and outputs too. Names of values stay, so that each can be looked at."""
    if any(node.domain not in ("", "ai.onnx") or _has_graph(node) for node in model.graph.node):
        raise SrkdError("it holds operators of its own, so its half precision cannot be followed on this device")
    copy = onnx.ModelProto()
    copy.CopyFrom(onnx.shape_inference.infer_shapes(model, data_prop=True))
    graph = copy.graph
    halves = _half_values(graph)
    for tensor in graph.initializer:
        if tensor.data_type in HALVES:
            tensor.CopyFrom(_widened(tensor, tensor.name))
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type in HALVES:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        nodes += _rewritten(node, halves)
    del graph.node[:]
    graph.node.extend(nodes)
    return copy


def holds_halves(model: onnx.ModelProto) -> bool:
    return any(tensor.data_type in HALVES for tensor in model.graph.initializer)


def _half_values(graph: onnx.GraphProto) -> dict[str, int]:
    """Names of the values in half precision, and which."""
    found = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for value in (*graph.input, *graph.output, *graph.value_info):
        found[value.name] = value.type.tensor_type.elem_type
    return {name: kind for name, kind in found.items() if kind in HALVES}


def _rewritten(node: onnx.NodeProto, halves: dict[str, int]) -> list[onnx.NodeProto]:
    """The node in float32, and for each of its half outputs a rounding."""
    for attribute in node.attribute:
        if attribute.t.data_type in HALVES:
            attribute.t.CopyFrom(_widened(attribute.t, attribute.t.name))
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i in HALVES:
            attribute.i = TensorProto.FLOAT
    following: list[onnx.NodeProto] = []
    if node.op_type not in EXACT:
        for index, name in enumerate(node.output):
            if name in halves:
                node.output[index] = f"{name}.exact"
                following += _rounding(name, halves[name])
    return [node, *following]


def _rounding(name: str, kind: int) -> list[onnx.NodeProto]:
    return [
        onnx.helper.make_node("Cast", [f"{name}.exact"], [f"{name}.half"], to=kind),
        onnx.helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT),
    ]


def _widened(tensor: onnx.TensorProto, name: str) -> onnx.TensorProto:
    return numpy_helper.from_array(numpy_helper.to_array(tensor).astype("float32"), name)


def _has_graph(node: onnx.NodeProto) -> bool:
    return any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute)
