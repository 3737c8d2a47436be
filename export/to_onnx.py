"""ONNX by torch's exporter: input `lr`, output `sr`, float32 RGB in [0,1], batch, height and width free."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx

from compressor.models.networks.base import Descriptor
from compressor.runtimes.base import Runtime
from compressor.runtimes.onnx_runtime import OnnxRuntime
from export.conversion import Choices, Conversion
from export.onnx_bytes import take_and_give_bytes
from export.onnx_graph import INPUT, OUTPUT, Graph, graph_of
from export.onnx_shuffle import depth_first

__all__ = ["INPUT", "OUTPUT", "convert", "finished", "open_runtime"]

OPSET = 18
"""The lowest that torch's exporter writes for every network here; runtimes of 2023 read it."""

LARGEST_BYTES = 1_900_000_000
"""One file holds less than 2 GiB; what is larger keeps its weights in a second one."""


def convert(job: Conversion) -> Mapping[str, object]:
    """Write the network as float32."""
    graph = graph_of(job.network, job.choices.lr_size, OPSET)
    if job.choices.shuffle == "dcr":
        depth_first(graph.model)
    return finished(job, graph)


def open_runtime(path: Path) -> Runtime:
    return OnnxRuntime(path)


def finished(job: Conversion, graph: Graph) -> Mapping[str, object]:
    """Give a graph its ends and its metadata, check it, write it, and tell what it is."""
    model = graph.model
    if job.choices.io == "uint8":
        take_and_give_bytes(model, job.network.descriptor.channels)
    _describe(model, job.network.descriptor, job.choices, job.metadata)
    _write(model, job.path)
    onnx.checker.check_model(str(job.path), full_check=True)
    return {
        "opset": model.opset_import[0].version,
        "nodes": len(model.graph.node),
        "nodes_before_onnxsim": graph.nodes_before_onnxsim,
        "simplified": graph.simplified,
        "input": _told(model.graph.input[0]),
        "output": _told(model.graph.output[0]),
    }


def _write(model: onnx.ModelProto, path: Path) -> None:
    weights = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    if weights <= LARGEST_BYTES:
        path.write_bytes(model.SerializeToString(deterministic=True))
        return
    onnx.save_model(model, str(path), save_as_external_data=True, location=f"{path.name}.data", size_threshold=1024)


def _told(value: onnx.ValueInfoProto) -> str:
    """`lr float32 n x 3 x h x w`."""
    kind = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name
    sizes = [dim.dim_param or str(dim.dim_value) for dim in value.type.tensor_type.shape.dim]
    return f"{value.name} {kind} {' x '.join(sizes)}"


def _describe(model: onnx.ModelProto, descriptor: Descriptor, choices: Choices, metadata: Mapping[str, str]) -> None:
    kind = "RGB" if descriptor.channels == 3 else f"{descriptor.channels} channel"
    if choices.io == "uint8":
        model.graph.input[0].doc_string = f"{kind} images, bytes, N x H x W x {descriptor.channels}"
        model.graph.output[0].doc_string = f"the same {descriptor.scale} times larger; clamped and rounded"
    else:
        model.graph.input[0].doc_string = f"{kind} images, float32 in [0,1], N x {descriptor.channels} x H x W"
        model.graph.output[0].doc_string = f"the same {descriptor.scale} times larger; not clamped to [0,1]"
    for key, value in sorted(metadata.items()):
        model.metadata_props.add(key=key, value=value)
