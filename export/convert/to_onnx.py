"""ONNX by torch's exporter: input `input`, output `output`, float32 RGB in [0,1], any batch, height and width."""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from export.formats.conversion import Conversion
from export.graph.headroom import fp16_line, measure_graph
from export.graph.onnx_graph import OPSET, convert_to_bytes, shared_graph


def convert(job: Conversion) -> Mapping[str, object]:
    graph = shared_graph(job.network, job.options.lr_size, OPSET, job.context)
    facts = dict[str, object]()
    if job.inputs:
        peaks, _ = measure_graph(graph, job.inputs, job.context)
        job.context.note(fp16_line(peaks))
        facts["largest_activation"] = round(max(peak.largest for peak in peaks.values()), 4)
    return {**write_graph(job, graph), **facts}


def write_graph(job: Conversion, model: onnx.ModelProto) -> Mapping[str, object]:
    """Add the metadata, and the conversion of byte images if chosen, write and check the graph; return its facts."""
    if job.options.io == "uint8":
        convert_to_bytes(model, job.network.descriptor.channels)
    _describe(model, job)
    job.path.write_bytes(model.SerializeToString(deterministic=True))
    onnx.checker.check_model(str(job.path), full_check=True)
    return {
        "opset": model.opset_import[0].version,
        "nodes": len(model.graph.node),
        "input": _format_value(model.graph.input[0]),
        "output": _format_value(model.graph.output[0]),
    }


def _format_value(value: onnx.ValueInfoProto) -> str:
    """Return `input float32 n x 3 x h x w`."""
    kind = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name
    sizes = [dim.dim_param or str(dim.dim_value) for dim in value.type.tensor_type.shape.dim]
    return f"{value.name} {kind} {' x '.join(sizes)}"


def _describe(model: onnx.ModelProto, job: Conversion) -> None:
    descriptor = job.network.descriptor
    kind = "RGB" if descriptor.channels == 3 else f"{descriptor.channels} channel"
    if job.options.io == "uint8":
        model.graph.input[0].doc_string = f"{kind} images, bytes, N x H x W x {descriptor.channels}"
        model.graph.output[0].doc_string = f"the same {descriptor.scale} times larger; clamped and rounded"
    else:
        number = "float16" if job.options.io == "fp16" else "float32"
        model.graph.input[0].doc_string = f"{kind} images, {number} in [0,1], N x {descriptor.channels} x H x W"
        model.graph.output[0].doc_string = f"the same {descriptor.scale} times larger; not clamped to [0,1]"
    for key, value in sorted(job.metadata.items()):
        model.metadata_props.add(key=key, value=value)
