"""Phones' GPUs through LiteRT: a .tflite of one size that the GPU takes as a whole, without a part left to the CPU.

Read in google-ai-edge/LiteRT (commit 34ec5ba) at tflite/delegates/gpu/common/model_builder.cc (the operators, their
highest versions, tensors of at most four axes, float32 between operators; PReLU with a stored slope for each channel)
and at tflite/tools/versioning/gpu_compatibility.cc (operands, broadcasting, DEPTH_TO_SPACE). PRELU and DEPTH_TO_SPACE
are among its operators, so srkd's LiteRT files need no detour by ReLUs and transposed convolutions, which compute the
same; what LiteRT's own converter writes in their place, GREATER with SELECT and six axes, is not taken. RELU_0_TO_1 is
in that list, too, but the accelerator of LiteRT 2.3 refuses it: a clip at the end is left to the app, which clamps
anyway. That accelerator also ends the process at groups whose channels are no multiples of 4, which the
sources would split.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from compressor.models.networks.base import Network
from export.convert.litert_file import is_constant, kind_of, read_model, text_of
from export.hosts.writing import HostJob, HostRules

OPERATORS: Mapping[str, int] = {
    "ADD": 2,
    "BATCH_MATMUL": 0,
    "CONCATENATION": 2,
    "CONV_2D": 6,
    "DEPTHWISE_CONV_2D": 6,
    "DEPTH_TO_SPACE": 0,
    "DIV": 2,
    "FULLY_CONNECTED": 9,
    "GATHER": 0,
    "GELU": 2,
    "LEAKY_RELU": 2,
    "LOGISTIC": 2,
    "MAXIMUM": 2,
    "MEAN": 0,
    "MINIMUM": 2,
    "MUL": 3,
    "PAD": 2,
    "PADV2": 2,
    "PRELU": 1,
    "RELU": 2,
    "RELU6": 2,
    "RESHAPE": 1,
    "RSQRT": 2,
    "SLICE": 2,
    "SOFTMAX": 2,
    "SQRT": 2,
    "SQUARED_DIFFERENCE": 2,
    "STRIDED_SLICE": 2,
    "SUB": 2,
    "SUM": 0,
    "TANH": 2,
    "TRANSPOSE": 2,
}
"""The operators of srkd's networks that the GPU delegate takes, with the highest version of each; 0: any."""

AXES = 4
TWO_VALUES = frozenset({"ADD", "SUB", "MUL", "DIV", "MAXIMUM", "MINIMUM", "SQUARED_DIFFERENCE"})
OVER_AXES = frozenset({"MEAN", "SUM"})


class LiteRTGpu(HostRules):
    """`4x-MODEL-256x256.tflite`, checked operator by operator."""

    def adapt(self, job: HostJob) -> Network:
        return job.network.unclipped()

    def refusals(self, job: HostJob, path: Path) -> Iterator[str]:
        return gpu_refusals(path.read_bytes())


def gpu_refusals(content: bytes) -> Iterator[str]:
    """Yield in one line each what of a .tflite the GPU delegate does not take."""
    model = read_model(content)
    (graph,) = model.subgraphs
    for index in (*graph.inputs, *graph.outputs):
        tensor = graph.tensors[index]
        signature = () if tensor.shapeSignature is None else tuple(map(int, tensor.shapeSignature))
        if -1 in signature:
            yield f"the image {text_of(tensor.name)} has no fixed size"
    for operator in graph.operators:
        kind = kind_of(model, operator)
        version = int(model.operatorCodes[operator.opcodeIndex].version)
        if kind not in OPERATORS:
            yield f"it has no {kind}"
        elif OPERATORS[kind] and version > OPERATORS[kind]:
            yield f"{kind} of version {version} is above {OPERATORS[kind]}"
        inputs = [graph.tensors[index] for index in operator.inputs if index >= 0]
        outputs = [graph.tensors[index] for index in operator.outputs]
        for tensor in (*inputs, *outputs):
            if len(_shape(tensor)) > AXES:
                yield f"{kind} has a tensor of {len(_shape(tensor))} axes, and {AXES} is the most"
            if not is_constant(model, tensor) and not _is_float32(tensor):
                yield f"{kind} has values between operators that are not float32"
        yield from _operand_refusals(model, operator, kind, inputs)


def _operand_refusals(model: Any, operator: Any, kind: str, inputs: Sequence[Any]) -> Iterator[str]:
    """Yield what is wrong with the operands of one operator."""
    shapes = [_shape(tensor) for tensor in inputs]
    stored = [is_constant(model, tensor) for tensor in inputs]
    if kind == "PRELU" and not (stored[1] and shapes[1][-1] == shapes[0][-1] and set(shapes[1][:-1]) <= {1}):
        yield "PRELU has a slope that is not stored for each channel"
    if kind == "CONV_2D" and (groups := shapes[0][-1] // shapes[1][-1]) > 1:
        sides = shapes[1][-1], shapes[1][0] // groups
        if any(side % 4 for side in sides):
            yield "CONV_2D has groups of {} and {} channels, which are no multiples of 4".format(*sides)
    if kind == "DEPTH_TO_SPACE" and not operator.builtinOptions.blockSize > 1:
        yield "DEPTH_TO_SPACE has blocks of 1"
    if kind in TWO_VALUES and all(stored):
        yield f"{kind} has no operand that is computed"
    if kind in TWO_VALUES and not _meet(*shapes):
        yield f"{kind} has operands of {shapes[0]} and {shapes[1]}, which it does not broadcast"
    if kind in OVER_AXES and not stored[1]:
        yield f"{kind} has axes that are not stored"
    if kind == "GATHER" and not (len(shapes[1]) == 1 and stored[1]):
        yield "GATHER takes other than a stored row of indices"
    if kind in ("PAD", "PADV2") and (not stored[1] or shapes[1] not in ((3, 2), (4, 2))):
        yield f"{kind} pads other than three or four axes"


def _meet(first: tuple[int, ...], second: tuple[int, ...]) -> bool:
    """Whether two operands have as many axes, or the smaller one is a scalar, a vector, or an image to a batch of 1."""
    longer, shorter = sorted((first, second), key=len, reverse=True)
    if len(shorter) <= 1 or len(longer) == len(shorter):
        return True
    return len(longer) == AXES and len(shorter) == AXES - 1 and longer[0] == 1


def _shape(tensor: Any) -> tuple[int, ...]:
    return () if tensor.shape is None else tuple(map(int, tensor.shape))


def _is_float32(tensor: Any) -> bool:
    from ai_edge_litert import schema_py_generated as schema

    return bool(tensor.type == schema.TensorType.FLOAT32)
