"""ONNX files before they run: precision, metadata and completeness, and half precision emulated in float32.

On a CPU ONNX Runtime computes an fp16 file in float32 throughout: values that overflow on every GPU do not overflow
there. It does not compute bf16 at all. `emulate_half` rounds each result, as hardware does: accurate results, but slow.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from compressor.base.errors import SrkdError, one_line, report_unreadable
from compressor.base.metadata import srkd_keys

MOST_BYTES = 2**31 - 1
"""The most bytes of a model in memory, protobuf's limit."""


def read_facts(path: Path) -> tuple[str, dict[str, str]]:
    """Return facts that a session does not show: the number format of most weights, and the `srkd.*` keys.

    External weights are not read; only their presence is checked.
    """
    model = load_onnx(path, external_weights=False)
    for tensor in _external_tensors(model):
        _external_part(tensor, path)
    return model_facts(model, path)


def external_files(path: Path) -> list[Path]:
    """Return the files beside a model that hold its weights; one line if any is missing."""
    model = load_onnx(path, external_weights=False)
    return sorted({_external_part(tensor, path)[0] for tensor in _external_tensors(model)})


def model_facts(model: onnx.ModelProto, path: Path) -> tuple[str, dict[str, str]]:
    """The same facts as `read_facts` for a model that was read from `path`."""
    with one_line(f"{path} is not an ONNX file", first=True):
        facts = weight_precision(model), read_srkd_keys(model)
    if not model.graph.node:
        raise SrkdError(f"{path} is not an ONNX file: it holds no nodes")
    return facts


def load_onnx(path: Path, *, external_weights: bool = True) -> onnx.ModelProto:
    """Load an ONNX file; one line for any other file."""
    if not path.is_file():
        raise SrkdError(f"{path}: no such file")
    with one_line(f"{path} is not an ONNX file", first=True):
        return onnx.load_model(str(path), load_external_data=external_weights)


def read_srkd_keys(model: onnx.ModelProto) -> dict[str, str]:
    return srkd_keys({prop.key: prop.value for prop in model.metadata_props})


def read_whole(path: Path) -> bytes:
    """The bytes of a model, with the weights of files beside it embedded, independent of any other file."""
    if not path.is_file():
        raise SrkdError(f"{path}: no such file")
    content = _read_part(path, 0, path.stat().st_size)
    model = parse_onnx(content, path)
    tensors = list(_external_tensors(model))
    if not tensors:
        return content
    places = [_external_part(tensor, path) for tensor in tensors]
    total = len(content) + sum(length for _, _, length in places)
    if total > MOST_BYTES:
        raise SrkdError(f"{path} has {total:,} bytes with its weights, more than {MOST_BYTES:,}: it is no image model")
    for tensor, place in zip(tensors, places, strict=True):
        tensor.raw_data = _read_part(*place)
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
    with one_line(f"{path} is not an ONNX file", first=True):
        return bytes(model.SerializeToString())


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


def _read_part(file: Path, offset: int, length: int) -> bytes:
    if length > MOST_BYTES:
        raise SrkdError(f"{file} has {length:,} bytes, more than {MOST_BYTES:,}: it is no image model")
    with report_unreadable(file), open(file, "rb") as handle:
        handle.seek(offset)
        return handle.read(length)


def _external_tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Yield the tensors whose values are in other files, including those of nodes and of graphs within nodes."""
    graphs, nodes = [model.graph], [node for function in model.functions for node in function.node]
    while graphs or nodes:
        tensors: list[onnx.TensorProto] = []
        if graphs:
            graph = graphs.pop()
            nodes.extend(graph.node)
            tensors += graph.initializer
            tensors += [tensor for sparse in graph.sparse_initializer for tensor in (sparse.values, sparse.indices)]
        else:
            for attribute in nodes.pop().attribute:
                graphs += [attribute.g, *attribute.graphs] if attribute.HasField("g") else attribute.graphs
                tensors += [attribute.t, *attribute.tensors]
                sparse_tensors = [attribute.sparse_tensor, *attribute.sparse_tensors]
                tensors += [tensor for sparse in sparse_tensors for tensor in (sparse.values, sparse.indices)]
        yield from (tensor for tensor in tensors if tensor.data_location == TensorProto.EXTERNAL)


def _external_part(tensor: onnx.TensorProto, path: Path) -> tuple[Path, int, int]:
    """Return the file, the offset and the length of a tensor's values; one line if they are not beside the model."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    name = entries.get("location", "")
    location = PurePosixPath(name)
    if not name or location.is_absolute() or ".." in location.parts:
        raise SrkdError(f"{path} keeps {tensor.name} in {name!r}, which is not beside it: refused")
    file = path.parent / name
    with one_line(f"{path} does not say where in {name} {tensor.name} is", first=True):
        if not file.is_file():
            raise SrkdError(f"{path} keeps its weights in {name}, which is not beside it: put both in one folder")
        size = file.stat().st_size
        offset = int(entries.get("offset", "0"))
        length = int(entries.get("length") or _bytes_of(tensor))
        if min(offset, length) < 0:
            raise ValueError(f"offset {offset}, length {length}")
    if size < offset + length:
        raise SrkdError(f"{file} has {size} bytes: {tensor.name} of {path.name} ends at {offset + length}")
    return file, offset, length


def _bytes_of(tensor: onnx.TensorProto) -> int:
    """The number of bytes of a tensor's values."""
    return int(math.prod(tensor.dims) * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)


def weight_precision(model: onnx.ModelProto) -> str:
    """The number format of most weights."""
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
    """A copy in float32, including inputs and outputs, with half inputs and each half result rounded. Value names are
    kept."""
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
    set_nodes(graph, [*_rounded_inputs(graph, nodes, halves), *nodes])
    return copy


def _rounded_inputs(
    graph: onnx.GraphProto, nodes: Sequence[onnx.NodeProto], halves: dict[str, int]
) -> list[onnx.NodeProto]:
    """The nodes that round the half inputs of a graph; `nodes` read their results from here on."""
    stored = {tensor.name for tensor in graph.initializer}
    rounding: list[onnx.NodeProto] = []
    for name in (value.name for value in graph.input if value.name in halves and value.name not in stored):
        rounding += _round(name, f"{name}.rounded", halves[name])
        for node in nodes:
            node.input[:] = [f"{name}.rounded" if source == name else source for source in node.input]
    return rounding


def _round(source: str, output: str, kind: int) -> list[onnx.NodeProto]:
    """Nodes that round a float32 value to the type `kind`."""
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
