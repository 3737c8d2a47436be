"""Conversion of a network to an ONNX graph by torch's exporter; nodes are named by module, no local paths are kept.

The graph can be changed to take bytes, and to use DepthToSpace in mode DCR, which some accelerators require, instead of
torch's CRD. If possible, weights and bias of the convolution before it are reordered, at no cost; otherwise (for a
grouped convolution) the channels are gathered.
"""

from __future__ import annotations

import ast
import copy
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from compressor.base.errors import SrkdError, one_line, reason_of
from compressor.models.networks.base import Network
from compressor.runtimes.onnx_file import set_nodes
from export.formats.conversion import INPUT, OUTPUT, example_size, silence
from export.graph.recent import Recent, network_key

OPSET = 18
"""Lowest opset in which torch's exporter writes every network here; runtimes of 2023 read it."""

ORDER_PRESERVING = ("Relu", "LeakyRelu", "Sigmoid", "Tanh", "Clip", "Cast", "Identity")
"""Operators that treat every channel alike, so that they keep an order of channels."""

NODE_SCOPES = "pkg.torch.onnx.name_scopes"
"""Node metadata of torch's exporter: the modules around an operation, then its name, as a Python list."""


@dataclass(frozen=True)
class ExportedGraph:
    """A float32 graph from `INPUT` to `OUTPUT`. Values are named after the torch operations that compute them."""

    model: onnx.ModelProto
    nodes_before_onnxsim: int
    simplified: bool


Translations: TypeAlias = Mapping[Callable[..., Any], Callable[..., Any]]
"""Torch operations that its exporter does not support, with functions that write them in ONNX."""


def build_graph(
    network: Network, lr_size: tuple[int, int] | None, opset: int, *, translations: Translations | None = None
) -> ExportedGraph:
    """The exporter's graph or onnxsim's, whichever is smaller; for one size (width, height), or for any.

    The caller may change it. The graph of a network is computed once for all formats that begin with it.
    """
    if translations is not None:
        return _build(network, lr_size, opset, translations)
    graph = _graphs.get((network_key(network), lr_size, opset), lambda: _build(network, lr_size, opset, None))
    return replace(graph, model=copy.deepcopy(graph.model))


_graphs = Recent[ExportedGraph](lambda graph: graph.model.ByteSize())


def _build(
    network: Network, lr_size: tuple[int, int] | None, opset: int, translations: Translations | None
) -> ExportedGraph:
    program = trace(network, lr_size, opset, translations=translations)
    with one_line(f"{network.spec.arch} does not fit into one ONNX graph", first=True):
        plain = _tidy(program.model_proto)
    model, simplified = _smaller(plain, _simplified(plain))
    return ExportedGraph(model, len(plain.graph.node), simplified)


def trace(
    network: Network, lr_size: tuple[int, int] | None, opset: int, *, translations: Translations | None = None
) -> torch.onnx.ONNXProgram:
    """Torch's decomposed program with its ONNX graph."""
    # The exporter would treat a batch of one, or equal sides, as constants, which is right only for a fixed size.
    width, height = lr_size or example_size(network)
    example = torch.rand(
        2 if lr_size is None else 1,
        network.descriptor.channels,
        height,
        width,
        generator=torch.Generator().manual_seed(0),
    )
    try:
        with silence(), torch.no_grad():
            program = torch.onnx.export(
                network,
                (example,),
                dynamo=True,
                opset_version=opset,
                external_data=False,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=({0: "n", 2: "h", 3: "w"},) if lr_size is None else None,
                verbose=False,
                custom_translation_table=None if translations is None else dict(translations),
            )
    except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
        reason = reason_of(error, first=True)
        raise SrkdError(f"torch's exporter cannot convert {network.spec.arch}: {reason}") from error
    if program is None:
        raise SrkdError(f"torch's exporter returned nothing for {network.spec.arch}")
    return program


def _tidy(model: onnx.ModelProto) -> onnx.ModelProto:
    """Name nodes by module, and remove the exporter's notes, which hold paths of this machine."""
    graph = model.graph
    names: Counter[str] = Counter()
    for node in graph.node:
        name = _node_name(node)
        names[name] += 1
        # One torch operation may become several nodes, and ONNX Runtime needs a different name for each.
        node.name = name if names[name] == 1 else f"{name}#{names[name]}"
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*graph.input, *graph.output, *graph.value_info):
        del value.metadata_props[:]
    del graph.metadata_props[:]
    del model.metadata_props[:]
    return model


def _node_name(node: onnx.NodeProto) -> str:
    """Return `blocks.0.conv1/conv2d_2` for the node that torch's exporter calls node_conv2d_2."""
    scopes = next((prop.value for prop in node.metadata_props if prop.key == NODE_SCOPES), None)
    if scopes is None:
        return node.name
    names = [name for name in ast.literal_eval(scopes) if name]
    return "/".join(names[-2:]) if names else node.name


def _simplified(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """Return onnxsim's version, or None if onnxsim fails or cannot confirm that both are equal."""
    import onnxsim

    try:
        simpler, equal = onnxsim.simplify(model)
    except Exception:  # noqa: BLE001 - onnxsim raises whatever its C++ code throws; without it the graph is complete
        return None
    return _tidy(simpler) if equal else None


def _smaller(plain: onnx.ModelProto, simpler: onnx.ModelProto | None) -> tuple[onnx.ModelProto, bool]:
    """The graph with fewer nodes, then fewer bytes, and whether it is onnxsim's, which can be larger."""

    def size(model: onnx.ModelProto) -> tuple[int, int]:
        return len(model.graph.node), model.ByteSize()

    if simpler is not None and size(simpler) < size(plain):
        return simpler, True
    return plain, False


def convert_to_bytes(model: onnx.ModelProto, channels: int) -> None:
    """Make input and output bytes, N,H,W,C in 0..255, as cameras and screens use, so that an app needs no image code.

    Range, order of axes, clamp and rounding become part of the graph; its input and output keep their names.
    """
    graph = model.graph
    inside, outside = f"{INPUT}.float", f"{OUTPUT}.float"
    for node in graph.node:
        node.input[:] = [inside if name == INPUT else name for name in node.input]
        node.output[:] = [outside if name == OUTPUT else name for name in node.output]
    constants = {"bytes.range": 255.0, "bytes.lowest": 0.0, "bytes.highest": 255.0}
    graph.initializer.extend(
        numpy_helper.from_array(np.array(value, np.float32), name) for name, value in constants.items()
    )
    before = [
        _bytes_node("Cast", INPUT, f"{INPUT}.levels", to=TensorProto.FLOAT),
        _bytes_node("Transpose", f"{INPUT}.levels", f"{INPUT}.planes", perm=(0, 3, 1, 2)),
        _bytes_node("Div", f"{INPUT}.planes", inside, "bytes.range"),
    ]
    after = [
        _bytes_node("Mul", outside, f"{OUTPUT}.range", "bytes.range"),
        _bytes_node("Clip", f"{OUTPUT}.range", f"{OUTPUT}.clipped", "bytes.lowest", "bytes.highest"),
        _bytes_node("Round", f"{OUTPUT}.clipped", f"{OUTPUT}.levels"),
        _bytes_node("Cast", f"{OUTPUT}.levels", f"{OUTPUT}.planes", to=TensorProto.UINT8),
        _bytes_node("Transpose", f"{OUTPUT}.planes", OUTPUT, perm=(0, 2, 3, 1)),
    ]
    set_nodes(graph, [*before, *graph.node, *after])
    for value in (graph.input[0], graph.output[0]):
        n, _, h, w = (dim.dim_param or dim.dim_value or None for dim in value.type.tensor_type.shape.dim)
        value.CopyFrom(helper.make_tensor_value_info(value.name, TensorProto.UINT8, [n, h, w, channels]))


def _bytes_node(operator: str, source: str, output: str, *constants: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(operator, [source, *constants], [output], name=f"bytes/{output}", **attributes)


def use_depth_first(model: onnx.ModelProto) -> None:
    """Change every DepthToSpace from mode CRD to DCR with the same result."""
    graph = model.graph
    for node in list(graph.node):
        if node.op_type != "DepthToSpace" or attribute_of(node, "mode", b"DCR") == b"DCR":
            continue
        block = int(attribute_of(node, "blocksize", 0))
        conv = _source(graph, node)
        channels = None if conv is None else _output_channels(graph, conv)
        if conv is not None and channels is not None and int(attribute_of(conv, "group", 1)) == 1:
            _permute(graph, conv, new_order(channels, block))
        else:
            _gather(graph, node, block)
        next(entry for entry in node.attribute if entry.name == "mode").s = b"DCR"


def new_order(channels: int, block: int) -> NDArray[np.int64]:
    """The CRD channel for each DCR position: position (offset, channel) takes channel (channel, offset)."""
    order: NDArray[np.int64] = np.arange(channels, dtype=np.int64).reshape(-1, block**2).transpose()
    return order.flatten()


def _source(graph: onnx.GraphProto, node: onnx.NodeProto) -> onnx.NodeProto | None:
    """The convolution whose channels reach `node` in order, and no other node; None if there is none."""
    by_output = {name: other for other in graph.node for name in other.output}
    name = node.input[0]
    while sum(name in other.input for other in graph.node) == 1:
        source = by_output.get(name)
        if source is None or source.op_type == "Conv":
            return source
        if source.op_type not in ORDER_PRESERVING:
            return None
        name = source.input[0]
    return None


def _output_channels(graph: onnx.GraphProto, conv: onnx.NodeProto) -> int | None:
    """The number of output channels if only this convolution uses its weight and bias, and both are stored."""
    sizes = {tensor.name: tensor.dims for tensor in graph.initializer}
    unshared = all(sum(name in other.input for other in graph.node) == 1 for name in conv.input[1:])
    if not unshared or any(name not in sizes for name in conv.input[1:]):
        return None
    return int(sizes[conv.input[1]][0])


def _permute(graph: onnx.GraphProto, conv: onnx.NodeProto, order: NDArray[np.int64]) -> None:
    for tensor in graph.initializer:
        if tensor.name in conv.input[1:]:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor)[order], tensor.name))
    # Intermediate values now differ from those of torch's program, so they are renamed.
    name = conv.output[0]
    while (follower := next((node for node in graph.node if name in node.input), None)) is not None:
        for node in graph.node:
            node.input[:] = [f"{name}.dcr" if source == name else source for source in node.input]
            node.output[:] = [f"{name}.dcr" if output == name else output for output in node.output]
        for value in graph.value_info:
            value.name = f"{name}.dcr" if value.name == name else value.name
        if follower.op_type == "DepthToSpace":
            return
        name = follower.output[0]


def _gather(graph: onnx.GraphProto, node: onnx.NodeProto, block: int) -> None:
    name = node.input[0]
    shapes = onnx.shape_inference.infer_shapes(onnx.helper.make_model(graph)).graph.value_info
    channels = next((v.type.tensor_type.shape.dim[1].dim_value for v in shapes if v.name == name), 0)
    if not channels:
        raise SrkdError(f"{node.name}: the number of its input channels is not known, so --shuffle dcr is not possible")
    graph.initializer.append(numpy_helper.from_array(new_order(channels, block), f"{name}.order"))
    gather = helper.make_node("Gather", [name, f"{name}.order"], [f"{name}.dcr"], name=f"{node.name}.order", axis=1)
    graph.node.insert(list(graph.node).index(node), gather)
    node.input[0] = f"{name}.dcr"


def attribute_of(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    """The value of a node's attribute; `default` if the node lacks it."""
    return next((helper.get_attribute_value(entry) for entry in node.attribute if entry.name == name), default)


def for_one_size(model: onnx.ModelProto, lr_size: tuple[int, int]) -> onnx.ModelProto:
    """Make a graph take one image of a size (width, height), and return it with the shapes of all its values."""
    stored = {tensor.name for tensor in model.graph.initializer}
    image = next(value for value in model.graph.input if value.name not in stored)
    dims = image.type.tensor_type.shape.dim
    for dim, size in zip(dims, (1, dims[1].dim_value, lr_size[1], lr_size[0]), strict=True):
        dim.Clear()
        dim.dim_value = size
    # Stored shapes, which are for free sizes, would be used instead of inferred ones.
    del model.graph.value_info[:]
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    return onnx.shape_inference.infer_shapes(model, data_prop=True)
