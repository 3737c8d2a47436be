"""Phones' GPUs through LiteRT: a .tflite of one size that the GPU takes as a whole, without a part left to the CPU.

Read in google-ai-edge/LiteRT (commit 34ec5ba) at tflite/delegates/gpu/common/model_builder.cc (the operators, tensors
of at most four axes, float32 between operators) and at tflite/tools/versioning/gpu_compatibility.cc. PRELU and
DEPTH_TO_SPACE are among its operators; what LiteRT's own converter writes in their place, GREATER with SELECT and six
axes, is not taken. RELU_0_TO_1 is in that list, too, but the accelerator of LiteRT 2.3 refuses it: a clip at the end is
left to the app, which clamps anyway. That accelerator also ends the process at groups whose channels are no multiples
of 4, which the sources would split.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from compressor.models.networks.base import Network
from export.convert.litert_file import is_constant, kind_of, read_model
from export.hosts.table import Host
from export.hosts.writing import HostJob

OPERATORS = (
    "ADD BATCH_MATMUL CONCATENATION CONV_2D DEPTHWISE_CONV_2D DEPTH_TO_SPACE DIV FULLY_CONNECTED GATHER GELU "
    "LEAKY_RELU LOGISTIC MAXIMUM MEAN MINIMUM MUL PAD PADV2 PRELU RELU RELU6 RESHAPE RSQRT SLICE SOFTMAX SQRT "
    "SQUARED_DIFFERENCE STRIDED_SLICE SUB SUM TANH TRANSPOSE"
)
"""The operators of srkd's networks that the GPU delegate takes."""

AXES = 4


def adapt(job: HostJob) -> Network:
    return job.network.unclipped()


def refusals(host: Host, path: Path) -> Iterator[str]:
    return gpu_refusals(path.read_bytes())


def gpu_refusals(content: bytes) -> Iterator[str]:
    """Yield in one line each what of a .tflite the GPU delegate does not take."""
    from ai_edge_litert import schema_py_generated as schema

    model = read_model(content)
    (graph,) = model.subgraphs
    for operator in graph.operators:
        kind = kind_of(model, operator)
        if kind not in OPERATORS.split():
            yield f"it has no {kind}"
        inputs = [graph.tensors[index] for index in operator.inputs if index >= 0]
        for tensor in (*inputs, *(graph.tensors[index] for index in operator.outputs)):
            if len(_shape(tensor)) > AXES:
                yield f"{kind} has a tensor of {len(_shape(tensor))} axes, and {AXES} is the most"
            if not is_constant(model, tensor) and tensor.type != schema.TensorType.FLOAT32:
                yield f"{kind} has values between operators that are not float32"
        if kind == "CONV_2D":
            image, weight = map(_shape, inputs[:2])
            groups = image[-1] // weight[-1]
            if groups > 1 and (weight[-1] % 4 or weight[0] // groups % 4):
                sides = f"{weight[-1]} and {weight[0] // groups}"
                yield f"CONV_2D has groups of {sides} channels, which are no multiples of 4"


def _shape(tensor: Any) -> tuple[int, ...]:
    return () if tensor.shape is None else tuple(map(int, tensor.shape))
