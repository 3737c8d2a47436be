"""Half-precision ONNX files: float32 or bytes outside, fp16 or bf16 inside, proved as hardware rounds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from compressor.runtimes.base import Runtime
from compressor.runtimes.onnx_runtime import OnnxRuntime
from export.conversion import Conversion
from export.onnx_graph import graph_of
from export.onnx_half import to_half
from export.onnx_shuffle import depth_first
from export.to_onnx import finished


def convert_half(job: Conversion, kind: int, opset: int) -> Mapping[str, object]:
    """`kind` is ONNX's number of the precision, `opset` the first in which the operators have it."""
    graph = graph_of(job.network, job.choices.lr_size, opset)
    if job.choices.shuffle == "dcr":
        depth_first(graph.model)
    to_half(graph.model, kind)
    return finished(job, graph)


def open_rounded(path: Path) -> Runtime:
    """On a CPU ONNX Runtime computes fp16 in float32: an overflow of every GPU would pass the proof."""
    return OnnxRuntime(path, emulate=True)
