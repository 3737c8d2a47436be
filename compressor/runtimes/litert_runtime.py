"""A runtime for LiteRT files (.tflite, also TensorFlow Lite's), srkd's own and foreign ones, on the CPU."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compressor.base.context import QUIET, Context
from compressor.base.errors import SrkdError, one_line
from compressor.base.machine import native_silence
from compressor.base.metadata import srkd_keys
from compressor.runtimes.base import read_header
from compressor.runtimes.file_runtime import Array, FileRuntime, ImageFormat, image_format, require_one_image
from compressor.runtimes.table import DEFAULTS, OpenOptions

IDENTIFIER = b"TFL3"
DTYPES = {"float32": torch.float32, "uint8": torch.uint8}


def read_metadata(path: Path) -> Mapping[str, str]:
    _require_model(path)
    return _read_facts(path)[0]


class LiteRtRuntime(FileRuntime):
    """An interpreter with XNNPACK, prepared again at another size; with a fixed batch of one it runs image by image."""

    name = "litert"

    def __init__(self, path: Path, options: OpenOptions = DEFAULTS, context: Context = QUIET) -> None:
        from ai_edge_litert.interpreter import Interpreter

        super().__init__(path, options)
        _require_model(path)
        with one_line(f"{path} is not a model LiteRT can open"), native_silence():
            # LiteRT checks the whole file first, so the reading below is safe.
            self._interpreter = Interpreter(str(path), num_threads=self.threads)
            self._interpreter.allocate_tensors()
        metadata, self.precision = _read_facts(path)
        (source,), (output,) = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        self._input, self._output = source["index"], output["index"]
        self._shape = tuple(int(length) for length in source["shape"])
        self._take(_image_format(self._interpreter, self.label), metadata)

    def _run(self, lr: torch.Tensor) -> torch.Tensor:
        with one_line(f"{self.label}: LiteRT failed on {tuple(lr.shape)}"), native_silence():
            return self._image.run_arrays(lr, self._run_array)

    def _run_array(self, images: Array) -> Array:
        if images.shape != self._shape:
            self._shape = ()  # unset until the tensors are allocated: after a failure this size must be set up again
            self._interpreter.resize_tensor_input(self._input, images.shape)
            self._interpreter.allocate_tensors()
            self._shape = images.shape
        self._interpreter.set_tensor(self._input, images)
        self._interpreter.invoke()
        output: Array = self._interpreter.get_tensor(self._output)
        return output


open_file = LiteRtRuntime


def _require_model(path: Path) -> None:
    if read_header(path, 8)[4:8] != IDENTIFIER:
        raise SrkdError(f"{path} is not a LiteRT model: it does not begin as one ({IDENTIFIER.decode()})")


def _read_facts(path: Path) -> tuple[dict[str, str], str]:
    """The `srkd.*` keys in the file, and the number format of most of its weights."""
    from ai_edge_litert import schema_py_generated as schema

    names = {schema.TensorType.FLOAT16: "fp16", schema.TensorType.INT8: "int8", schema.TensorType.UINT8: "int8"}
    with one_line(f"{path} is not a LiteRT model"):
        model = schema.Model.GetRootAs(path.read_bytes(), 0)
        entries = [model.Metadata(index) for index in range(model.MetadataLength())]
        values = {entry.Name().decode(): bytes(model.Buffers(entry.Buffer()).DataAsNumpy()) for entry in entries}
        metadata = {key: value.decode() for key, value in srkd_keys(values).items()}
        graph = model.Subgraphs(0)
        sizes: Counter[str] = Counter()
        for tensor in map(graph.Tensors, _read_by_layers(model, graph)):
            if tensor.ShapeLength() > 1 and model.Buffers(tensor.Buffer()).DataLength():
                sizes[names.get(tensor.Type(), "fp32")] += int(np.prod(tensor.ShapeAsNumpy(), dtype=np.float64))
    return metadata, sizes.most_common(1)[0][0] if sizes else "fp32"


def _read_by_layers(model: Any, graph: Any) -> set[int]:
    """The tensors that layers read, directly or through a dequantisation; window masks are not weights."""
    from ai_edge_litert import schema_py_generated as schema

    kinds = schema.BuiltinOperator
    layers = {kinds.CONV_2D, kinds.DEPTHWISE_CONV_2D, kinds.FULLY_CONNECTED, kinds.TRANSPOSE_CONV, kinds.DEQUANTIZE}
    tensors: set[int] = set()
    for operator in map(graph.Operators, range(graph.OperatorsLength())):
        code = model.OperatorCodes(operator.OpcodeIndex())
        # Files written before there were 127 operations have the operation's number in another field.
        if max(int(code.BuiltinCode()), int(code.DeprecatedBuiltinCode())) in layers:
            tensors.update(int(index) for index in operator.InputsAsNumpy() if index >= 0)
    return tensors


def _image_format(interpreter: Any, label: str) -> ImageFormat:
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    require_one_image(label, len(inputs), len(outputs))
    kinds = [np.dtype(detail["dtype"]).name for detail in (*inputs, *outputs)]
    scaled = any(detail["quantization"][0] and not _means_itself(detail) for detail in (*inputs, *outputs))
    if kinds[0] != kinds[1] or kinds[0] not in DTYPES or scaled:
        raise SrkdError(f"{label} takes {kinds[0]} and returns {kinds[1]}: expected float32 in [0,1] or bytes")
    sizes = [None if length < 0 else int(length) for length in inputs[0]["shape_signature"]]
    channels_first = len(sizes) == 4 and sizes[3] not in (1, 3) and sizes[1] in (1, 3)
    return image_format(label, sizes, DTYPES[kinds[0]], channels_last=not channels_first)


def _means_itself(detail: Any) -> bool:
    """True if quantised values are the bytes of an image, 0 for black and 255 for 1."""
    scale, zero_point = detail["quantization"]
    return np.dtype(detail["dtype"]).name == "uint8" and zero_point == 0 and bool(np.isclose(scale * 255, 1, rtol=1e-5))
