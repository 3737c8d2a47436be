"""ONNX files before they run: precision, metadata and completeness, and half precision emulated in float32.

On a CPU ONNX Runtime computes an fp16 file in float32 throughout: values that overflow on every GPU do not overflow
there. It does not compute bf16 at all. `emulate_half` rounds each result, as hardware does: accurate results, but slow.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper
from onnx.external_data_helper import ExternalDataInfo, load_external_data_for_model, uses_external_data

from compressor.base.errors import SrkdError, one_line, report_unreadable
from compressor.base.files import read_bytes
from compressor.base.metadata import srkd_keys

MOST_BYTES = 2**31 - 1
"""The most bytes of a model in memory, protobuf's limit."""


def read_facts(path: Path) -> tuple[str, dict[str, str]]:
    """Return facts that a session does not show: the number format of most weights, and the `srkd.*` keys.

    Weights in files beside it are not read; only their presence is checked.
    """
    model = load_onnx(path, external_weights=False)
    external_files(model, path)
    return model_facts(model, path)


def external_files(model: onnx.ModelProto, path: Path) -> list[Path]:
    """Return the files beside a model that hold its weights; one line if any is missing."""
    files = sorted({path.parent / part.location for part in _external_parts(model, path)})
    for file in files:
        if not file.is_file():
            raise SrkdError(f"{path} keeps its weights in {file.name}, which is not beside it: put both in one folder")
    return files


def model_facts(model: onnx.ModelProto, path: Path) -> tuple[str, dict[str, str]]:
    """The same facts as `read_facts` for a model that was read from `path`."""
    with one_line(f"{path} is not an ONNX file", first=True):
        facts = weight_precision(model), srkd_keys({prop.key: prop.value for prop in model.metadata_props})
    if not model.graph.node:
        raise SrkdError(f"{path} is not an ONNX file: it holds no nodes")
    return facts


def load_onnx(path: Path, *, external_weights: bool = True) -> onnx.ModelProto:
    if not path.is_file():
        raise SrkdError(f"{path}: no such file")
    with one_line(f"{path} is not an ONNX file", first=True):
        return onnx.load_model(str(path), load_external_data=external_weights)


def read_whole(path: Path) -> bytes:
    """The bytes of a model, with the weights of files beside it embedded, independent of any other file."""
    with report_unreadable(path):
        content = read_bytes(path, MOST_BYTES)
    model = parse_onnx(content, path)
    if not external_files(model, path):
        return content
    total = len(content) + sum(part.length or 0 for part in _external_parts(model, path))
    if total > MOST_BYTES:
        raise SrkdError(f"{path} has {total:,} bytes with its weights, more than {MOST_BYTES:,}: it is no image model")
    with one_line(f"{path}: its weights in other files cannot be read", first=True):
        load_external_data_for_model(model, str(path.parent))
        return bytes(model.SerializeToString())


def _external_parts(model: onnx.ModelProto, path: Path) -> list[Any]:
    """The places of the weights that are in other files: `location`, `offset` and `length`."""
    with one_line(f"{path}: its weights in other files cannot be read", first=True):
        return [ExternalDataInfo(tensor) for tensor in model.graph.initializer if uses_external_data(tensor)]


def parse_onnx(content: bytes, path: Path) -> onnx.ModelProto:
    """The model in the bytes of `path`; external weights are not loaded."""
    with one_line(f"{path} is not an ONNX file", first=True):
        return onnx.load_model_from_string(content)


def set_nodes(graph: onnx.GraphProto, nodes: Iterable[onnx.NodeProto]) -> None:
    """Replace the nodes of a graph; some may be nodes that it has."""
    kept = list(nodes)
    del graph.node[:]
    graph.node.extend(kept)


def drop_unused(graph: onnx.GraphProto) -> None:
    """Remove stored values that no node reads, and the inferred types of values, which a rewritten graph outdates."""
    used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:], graph.value_info[:]
    graph.initializer.extend(kept)


def weight_precision(model: onnx.ModelProto) -> str:
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
        *("Abs", "Concat", "Constant", "ConstantOfShape", "DepthToSpace", "Expand", "Flatten", "Gather", "Identity"),
        *("Max", "MaxPool", "Min", "Neg", "Relu", "Reshape", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile"),
        *("Transpose", "Unsqueeze", "Where"),
    }
)
"""Operators that only move or select values: their results need no rounding."""


def emulate_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in float32, with its inputs and outputs; half inputs and half results are rounded, and names are kept."""
    attributes = [attribute for node in model.graph.node for attribute in node.attribute]
    has_graphs = any(attribute.HasField("g") or attribute.graphs for attribute in attributes)
    if has_graphs or any(node.domain not in ("", "ai.onnx") for node in model.graph.node):
        raise SrkdError("it holds custom operators, so its half precision cannot be emulated on this device")
    copy = onnx.ModelProto()
    copy.CopyFrom(onnx.shape_inference.infer_shapes(model, data_prop=True))
    graph = copy.graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for value in (*graph.input, *graph.output, *graph.value_info):
        types[value.name] = value.type.tensor_type.elem_type
    halves = {name: kind for name, kind in types.items() if kind in HALVES}
    for tensor in graph.initializer:
        if tensor.data_type in HALVES:
            tensor.CopyFrom(_to_float(tensor))
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type in HALVES:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    nodes = [emulated for node in graph.node for emulated in _emulated_nodes(node, halves)]
    # Half inputs are rounded first, and the nodes read the results.
    stored = {tensor.name for tensor in graph.initializer}
    rounding: list[onnx.NodeProto] = []
    for name in (value.name for value in graph.input if value.name in halves and value.name not in stored):
        rounding += _round(name, f"{name}.rounded", halves[name])
        for node in nodes:
            node.input[:] = [f"{name}.rounded" if source == name else source for source in node.input]
    set_nodes(graph, [*rounding, *nodes])
    return copy


def _round(source: str, output: str, kind: int) -> list[onnx.NodeProto]:
    return [
        onnx.helper.make_node("Cast", [source], [f"{output}.cast"], to=kind),
        onnx.helper.make_node("Cast", [f"{output}.cast"], [output], to=TensorProto.FLOAT),
    ]


def _emulated_nodes(node: onnx.NodeProto, halves: dict[str, int]) -> list[onnx.NodeProto]:
    """The node in float32, followed by a rounding of each of its half outputs."""
    for attribute in node.attribute:
        if attribute.t.data_type in HALVES:
            attribute.t.CopyFrom(_to_float(attribute.t))
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i in HALVES:
            attribute.i = TensorProto.FLOAT
    following: list[onnx.NodeProto] = []
    if node.op_type not in EXACT:
        for index, name in enumerate(node.output):
            if name in halves:
                node.output[index] = f"{name}.exact"
                following += _round(f"{name}.exact", name, halves[name])
    return [node, *following]


def _to_float(tensor: onnx.TensorProto) -> onnx.TensorProto:
    return numpy_helper.from_array(numpy_helper.to_array(tensor).astype("float32"), tensor.name)
