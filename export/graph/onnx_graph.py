"""Conversion of a network to an ONNX graph by torch's exporter; nodes are named by module, no local paths are kept.

The graph can be changed to take bytes.
"""

from __future__ import annotations

import ast
import copy
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from compressor.base.context import QUIET, Context
from compressor.base.errors import SrkdError, one_line, reason_of
from compressor.models.networks.base import Network
from compressor.runtimes.onnx_file import set_nodes
from export.formats.conversion import INPUT, OUTPUT, example_size, silence

OPSET = 18
"""Lowest opset in which torch's exporter writes every network here; runtimes of 2023 read it."""

NODE_SCOPES = "pkg.torch.onnx.name_scopes"
"""Node metadata of torch's exporter: the modules around an operation, then its name, as a Python list."""


Translations: TypeAlias = Mapping[Callable[..., Any], Callable[..., Any]]
"""Torch operations that its exporter does not support, with functions that write them in ONNX."""


def shared_graph(
    network: Network, lr_size: tuple[int, int] | None, opset: int, context: Context = QUIET
) -> onnx.ModelProto:
    """The graph of a network, built once for all formats of an export that begin with it; the caller may change it."""
    key = ("graph", *network_key(network), lr_size, opset)
    return copy.deepcopy(context.once(*key, read=lambda: build_graph(network, lr_size, opset)))


def network_key(network: Network) -> tuple[object, ...]:
    """A key of everything that a graph of the network depends on."""
    return type(network), repr(network), network.fingerprint()


def build_graph(
    network: Network, lr_size: tuple[int, int] | None, opset: int, *, translations: Translations | None = None
) -> onnx.ModelProto:
    """The float32 graph from `INPUT` to `OUTPUT`, for one size (width, height) or any; values have torch's names."""
    program = trace(network, lr_size, opset, translations=translations)
    with one_line(f"{network.spec.arch} does not fit into one ONNX graph", first=True):
        plain = _tidy(program.model_proto)
    # The exporter's or onnxsim's, which can be larger: the one with fewer nodes, then fewer bytes.
    return min(plain, _simplified(plain), key=lambda graph: (len(graph.graph.node), graph.ByteSize()))


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


def _simplified(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return onnxsim's version, or the model itself if onnxsim fails or cannot confirm that both are equal."""
    import onnxsim

    try:
        simpler, equal = onnxsim.simplify(model)
    except Exception:  # noqa: BLE001 - onnxsim raises whatever its C++ code throws; without it the graph is complete
        return model
    return _tidy(simpler) if equal else model


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
