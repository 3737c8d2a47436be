"""The child process in which ai-edge-quantizer quantises a .tflite.

The tool's own ranges are running means. Ours have the least squared error, as in our own files (`quantise/grids.py`),
and an image has the range [0,1] exactly, so that images of bytes are not rounded. With `--io uint8` images are these
bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from compressor.base.context import Progress
from compressor.base.errors import one_line
from export.convert.litert_file import (
    declare_images,
    kind_of,
    makers_of,
    name_of,
    pack_model,
    read_model,
    set_kind,
    set_metadata,
    text_of,
)
from export.formats.conversion import OUTPUT
from export.int8.quantise.grids import U8, choose_grid

GATES = ("LOGISTIC", "TANH", "GELU", "MEAN", "SUM", "RSQRT", "SQRT", "DIV", "SQUARED_DIFFERENCE")
"""Operations of gates and norms, whose results need more than 8 bits: they stay in float."""
ATTENTION = "SOFTMAX"
"""In a graph with this operation only layers are in int8: XNNPACK does not multiply two values in int8, and
operations between layers would be converted more often than computed (the file would take three times as long)."""
MOVES = ("DEPTH_TO_SPACE", "RESHAPE", "TRANSPOSE")
"""Operations whose result is on the grid of their input."""
SAMPLE = 8192
"""Number of samples of each value per patch."""


def quantise_file(
    progress: Progress,
    *,
    model: str,
    patches: str,
    path: str,
    in_float: Sequence[str],
    whole_ranges: bool,
    io: str,
    metadata: Mapping[str, str],
    free: bool,
) -> None:
    """Quantise a float model with ranges from patches, and write it; runs in a child process."""
    content = Path(model).read_bytes()
    with one_line("ai-edge-quantizer failed"):
        ranges = _ranges(content, np.load(patches), whole_ranges)
        quantised = read_model(_quantise(content, ranges, in_float, bytes_at_ends=io == "uint8"))
    set_metadata(quantised, metadata)
    (graph,) = quantised.subgraphs
    for tensor in graph.tensors:  # rename the image in bytes: the output image gets its name
        if text_of(tensor.name) == OUTPUT:
            tensor.name = f"{OUTPUT}_int8"
    declare_images(quantised, free=free)
    Path(path).write_bytes(pack_model(quantised))


def _ranges(content: bytes, images: NDArray[np.float32], whole: bool) -> dict[str, dict[str, Any]]:
    """Run the float model on patches (N, height, width, C), and return the range of each value in the quantiser's form:
    the whole range (`whole`), or the one of least squared error."""
    from ai_edge_litert.interpreter import Interpreter

    model = read_model(content)
    (graph,) = model.subgraphs
    values = {int(index): text_of(graph.tensors[index].name) for index in (*graph.inputs, *makers_of(graph))}
    interpreter = Interpreter(model_content=content, num_threads=1, experimental_preserve_all_tensors=True)
    interpreter.resize_tensor_input(graph.inputs[0], (1, *images.shape[1:]))
    interpreter.allocate_tensors()
    generator = np.random.default_rng(0)
    by_value: dict[str, list[NDArray[Any]]] = {name: [] for name in values.values()}
    for image in images:
        interpreter.set_tensor(graph.inputs[0], image[None])
        interpreter.invoke()
        for index, name in values.items():
            by_value[name].append(_sample(interpreter.get_tensor(index).ravel(), generator))
    ends = {name: _range(np.stack(samples), whole) for name, samples in by_value.items()}
    ends |= dict.fromkeys(_images(model), (0.0, 1.0))
    return {
        name: {end: np.full((1,) * 4, number, np.float32) for end, number in zip(("min", "max"), pair, strict=True)}
        for name, pair in ends.items()
    }


def _images(model: Any) -> Iterator[str]:
    """Yield the names of the input image, the output image, and the values that are only moved into the output."""
    (graph,) = model.subgraphs
    makers = makers_of(graph)
    yield text_of(graph.tensors[graph.inputs[0]].name)
    index = int(graph.outputs[0])
    yield text_of(graph.tensors[index].name)
    while (maker := makers.get(index)) is not None and kind_of(model, maker) in MOVES:
        index = int(maker.inputs[0])
        yield text_of(graph.tensors[index].name)


def _sample(numbers: NDArray[Any], generator: np.random.Generator) -> NDArray[Any]:
    """The least and the largest number of a value, followed by random samples."""
    some = numbers[generator.integers(0, len(numbers), SAMPLE)]
    return np.concatenate([[numbers.min(), numbers.max()], some])


def _range(samples: NDArray[Any], whole: bool) -> tuple[float, float]:
    if whole:
        return float(samples[:, 0].min()), float(samples[:, 1].max())
    grid = choose_grid(torch.from_numpy(np.ascontiguousarray(samples[:, 2:])), U8)
    return grid.scale * (U8.low - grid.zero_point), grid.scale * (U8.high - grid.zero_point)


def _quantise(
    content: bytes, ranges: Mapping[str, Mapping[str, Any]], in_float: Sequence[str], *, bytes_at_ends: bool
) -> bytes:
    """The quantised model; images stay float or, with `bytes_at_ends`, become unsigned bytes."""
    from ai_edge_quantizer import qtyping, quantizer

    names = qtyping.TFLOperationName
    model = read_model(content)
    shuffles = _hide_shuffles(model)
    tool = quantizer.Quantizer(pack_model(model))

    def keep_in_float(kind: Any, which: str = ".*") -> None:
        tool.update_quantization_recipe(which, kind, algorithm_key=quantizer.AlgorithmName.NO_QUANTIZE)

    attention = any(kind_of(model, operator) == ATTENTION for operator in model.subgraphs[0].operators)
    for kind in (names.CONV_2D, names.FULLY_CONNECTED) if attention else (names.ALL_SUPPORTED,):
        tool.add_static_config(".*", kind, activation_num_bits=8, weight_num_bits=8)
    for kind in GATES:
        keep_in_float(names(kind))
    for end in (names.INPUT, names.OUTPUT):
        if bytes_at_ends:
            tool.update_quantization_recipe(".*", end, _unsigned_bytes())
        else:
            keep_in_float(end)
    for name in in_float:
        keep_in_float(names.ALL_SUPPORTED, f"^{re.escape(name)};")
    result = tool.quantize(dict(ranges), enable_progress_bar=False, enable_progress_report=False)
    assert result.quantized_model is not None
    quantised = read_model(bytes(result.quantized_model))
    _restore_shuffles(quantised, shuffles)
    return pack_model(quantised)


def _unsigned_bytes() -> Any:
    from ai_edge_quantizer import qtyping

    return qtyping.OpQuantizationConfig(
        activation_tensor_config=qtyping.TensorQuantizationConfig(
            num_bits=8, symmetric=False, dtype=qtyping.TensorDataType.UINT
        ),
        weight_tensor_config=qtyping.TensorQuantizationConfig(
            num_bits=8, symmetric=True, granularity=qtyping.QuantGranularity.CHANNELWISE
        ),
        compute_precision=qtyping.ComputePrecision.INTEGER,
    )


def _hide_shuffles(model: Any) -> dict[str, Any]:
    """Replace each DEPTH_TO_SPACE by a RESHAPE, and return the options of each by name. The quantiser does not support
    DEPTH_TO_SPACE and would compute it in float."""
    from ai_edge_litert import schema_py_generated as schema

    (graph,) = model.subgraphs
    shuffles = {}
    for operator in graph.operators:
        if kind_of(model, operator) == "DEPTH_TO_SPACE":
            shuffles[name_of(graph, operator)] = operator.builtinOptions
            reshape = schema.ReshapeOptionsT()
            reshape.newShape = [int(length) for length in graph.tensors[operator.outputs[0]].shape]
            set_kind(model, operator, "RESHAPE")
            operator.builtinOptionsType, operator.builtinOptions = schema.BuiltinOptions.ReshapeOptions, reshape
    return shuffles


def _restore_shuffles(model: Any, shuffles: Mapping[str, Any]) -> None:
    from ai_edge_litert import schema_py_generated as schema

    (graph,) = model.subgraphs
    for operator in graph.operators:
        if kind_of(model, operator) == "RESHAPE" and (name := name_of(graph, operator)) in shuffles:
            set_kind(model, operator, "DEPTH_TO_SPACE")
            operator.builtinOptionsType = schema.BuiltinOptions.DepthToSpaceOptions
            operator.builtinOptions = shuffles[name]
