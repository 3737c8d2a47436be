"""The network as an ONNX graph, made by torch's exporter: nodes named by module, nothing of this machine in it."""

from __future__ import annotations

import ast
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
import torch._dynamo.exc
from onnx import TensorProto, helper, numpy_helper

from compressor.base.errors import SrkdError, reason_of
from compressor.models.networks.base import Network
from export.conversion import example_size, silence

INPUT, OUTPUT = "lr", "sr"
NODE_SCOPES = "pkg.torch.onnx.name_scopes"
"""Node metadata of torch's exporter: the modules around an operation, then its name, as a Python list."""


@dataclass(frozen=True)
class Graph:
    """A float32 graph from `lr` to `sr`. Values have the names of torch's operations that compute them."""

    model: onnx.ModelProto
    nodes_before_onnxsim: int
    simplified: bool


def build_graph(network: Network, lr_size: tuple[int, int] | None, opset: int) -> Graph:
    """Return the exporter's graph or onnxsim's, whichever is smaller; for one size (width, height), or for any."""
    plain = _tidy(_model(trace(network, lr_size, opset), network))
    model, simplified = _smaller(plain, _simplified(plain))
    return Graph(model, len(plain.graph.node), simplified)


def trace(network: Network, lr_size: tuple[int, int] | None, opset: int) -> torch.onnx.ONNXProgram:
    """Return torch's program, decomposed, and the ONNX graph made of it."""
    # The exporter takes a batch of one, or equal sides, for constants, as they are in a graph for one size.
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
            )
    except (torch.onnx.errors.OnnxExporterError, torch._dynamo.exc.TorchDynamoException, RuntimeError) as error:
        reason = reason_of(error, first=True)
        raise SrkdError(f"torch's exporter cannot convert {network.spec.arch}: {reason}") from error
    if program is None:
        raise SrkdError(f"torch's exporter returned nothing for {network.spec.arch}")
    return program


def _model(program: torch.onnx.ONNXProgram, network: Network) -> onnx.ModelProto:
    try:
        model: onnx.ModelProto = program.model_proto
    except (RuntimeError, ValueError) as error:
        reason = reason_of(error, first=True)
        raise SrkdError(f"{network.spec.arch} does not fit into one ONNX graph: {reason}") from error
    return model


def _tidy(model: onnx.ModelProto) -> onnx.ModelProto:
    """Name nodes by module, and drop the exporter's notes beside them, which hold paths of this machine."""
    graph = model.graph
    names: Counter[str] = Counter()
    for node in graph.node:
        name = _node_name(node)
        names[name] += 1
        # One operation of torch may become several nodes, and ONNX Runtime needs a name for each.
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
    """Return onnxsim's version, or None where it fails or cannot confirm that it is equal."""
    import onnxsim

    try:
        simpler, equal = onnxsim.simplify(model)
    except Exception:  # noqa: BLE001 - onnxsim raises whatever its C++ code throws; without it the graph is complete
        return None
    return _tidy(simpler) if equal else None


def _smaller(plain: onnx.ModelProto, simpler: onnx.ModelProto | None) -> tuple[onnx.ModelProto, bool]:
    """Return the graph with fewer nodes, then fewer bytes: onnxsim can also make a graph larger."""

    def size(model: onnx.ModelProto) -> tuple[int, int]:
        return len(model.graph.node), model.ByteSize()

    if simpler is not None and size(simpler) < size(plain):
        return simpler, True
    return plain, False


def convert_to_bytes(model: onnx.ModelProto, channels: int) -> None:
    """Make input and output N,H,W,C in 0..255, as cameras and screens have them, so that an app needs no image code.

    Range, order of axes, clamp and rounding go into the graph; `lr` and `sr` stay the names outside.
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
        _bytes_node("Cast", INPUT, "lr.levels", to=TensorProto.FLOAT),
        _bytes_node("Transpose", "lr.levels", "lr.planes", perm=(0, 3, 1, 2)),
        _bytes_node("Div", "lr.planes", inside, "bytes.range"),
    ]
    after = [
        _bytes_node("Mul", outside, "sr.range", "bytes.range"),
        _bytes_node("Clip", "sr.range", "sr.clipped", "bytes.lowest", "bytes.highest"),
        _bytes_node("Round", "sr.clipped", "sr.levels"),
        _bytes_node("Cast", "sr.levels", "sr.planes", to=TensorProto.UINT8),
        _bytes_node("Transpose", "sr.planes", OUTPUT, perm=(0, 2, 3, 1)),
    ]
    nodes = [*before, *graph.node, *after]
    del graph.node[:]
    graph.node.extend(nodes)
    for value in (graph.input[0], graph.output[0]):
        n, _, h, w = (dim.dim_param or dim.dim_value or None for dim in value.type.tensor_type.shape.dim)
        value.CopyFrom(helper.make_tensor_value_info(value.name, TensorProto.UINT8, [n, h, w, channels]))


def _bytes_node(operator: str, source: str, output: str, *constants: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(operator, [source, *constants], [output], name=f"bytes/{output}", **attributes)
