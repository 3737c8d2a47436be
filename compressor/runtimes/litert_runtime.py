"""LiteRT's files (.tflite, also TensorFlow Lite's), ours and foreign ones, on the CPU."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compressor.base.errors import SrkdError, UsageError, one_line
from compressor.base.machine import native_silence
from compressor.models.networks.base import Descriptor, Spec
from compressor.runtimes.base import require_input, require_output
from compressor.runtimes.metadata import Array, Image, describe, spec_in

IDENTIFIER = b"TFL3"


class LiteRtRuntime:
    """An interpreter with XNNPACK. A file of free sizes is prepared anew whenever the size changes; one with a fixed
    batch, which is one, takes several images one after the other. `threads` None: as many as torch uses."""

    name = "litert"
    layout = "runtime"
    device = "cpu"

    def __init__(
        self, path: Path, *, label: str | None = None, device: str = "cpu", threads: int | None = None
    ) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self.label = label or path.stem
        self.threads = threads or torch.get_num_threads()
        if device != "cpu":
            raise UsageError(f"device {device!r}: LiteRT runs on cpu here")
        _require_file(path)
        with one_line(f"{path} is not a model LiteRT can open"), native_silence():
            # Its own check of the whole file comes first: what is read below is sound.
            self._interpreter = Interpreter(str(path), num_threads=self.threads)
            self._interpreter.allocate_tensors()
        self.metadata, self.precision = _facts(path)
        self._image = _image(self._interpreter, self.label)
        (given,), (taken,) = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        self._given, self._taken = given["index"], taken["index"]
        self._shape = tuple(int(length) for length in given["shape"])
        self.spec: Spec | None = spec_in(self.metadata, self.label)
        self.descriptor: Descriptor = describe(self.spec, self._image, self.label, self._run)

    def run(self, lr: torch.Tensor) -> torch.Tensor:
        require_input(lr, self.descriptor, self.label)
        sr = self._run(lr)
        require_output(lr, sr, self.descriptor, self.label)
        return sr

    def _run(self, lr: torch.Tensor) -> torch.Tensor:
        with one_line(f"{self.label}: LiteRT failed on {tuple(lr.shape)}"), native_silence():
            return self._image.run(lr, self._one)

    def _one(self, fed: Array) -> Array:
        if fed.shape != self._shape:
            self._shape = ()  # unknown until it is there: a failure must not pass for this size
            self._interpreter.resize_tensor_input(self._given, fed.shape)
            self._interpreter.allocate_tensors()
            self._shape = fed.shape
        self._interpreter.set_tensor(self._given, fed)
        self._interpreter.invoke()
        output: Array = self._interpreter.get_tensor(self._taken)
        return output


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise SrkdError(f"{path}: no such file")
    try:
        with open(path, "rb") as file:
            head = file.read(8)
    except OSError as error:
        raise SrkdError(f"{path} cannot be read: {error.strerror or error}") from error
    if head[4:8] != IDENTIFIER:
        raise SrkdError(f"{path} is not a LiteRT model: it does not begin as one ({IDENTIFIER.decode()})")


def _facts(path: Path) -> tuple[dict[str, str], str]:
    """The `srkd.*` keys in the file, and what most of its weights are stored in."""
    from ai_edge_litert import schema_py_generated as schema

    names = {schema.TensorType.FLOAT16: "fp16", schema.TensorType.INT8: "int8", schema.TensorType.UINT8: "int8"}
    with one_line(f"{path} is not a LiteRT model"):
        model = schema.Model.GetRootAs(path.read_bytes(), 0)
        entries = [model.Metadata(index) for index in range(model.MetadataLength())]
        told = {entry.Name().decode(): bytes(model.Buffers(entry.Buffer()).DataAsNumpy()) for entry in entries}
        metadata = {key: value.decode() for key, value in told.items() if key.startswith("srkd.")}
        graph = model.Subgraphs(0)
        sizes: Counter[str] = Counter()
        for tensor in (graph.Tensors(index) for index in range(graph.TensorsLength())):
            if tensor.ShapeLength() > 1 and model.Buffers(tensor.Buffer()).DataLength():
                sizes[names.get(tensor.Type(), "fp32")] += int(np.prod(tensor.ShapeAsNumpy(), dtype=np.float64))
    return metadata, sizes.most_common(1)[0][0] if sizes else "fp32"


def _image(interpreter: Any, label: str) -> Image:
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    if len(inputs) != 1 or len(outputs) != 1:
        raise SrkdError(
            f"{label} has {len(inputs)} inputs and {len(outputs)} outputs: a super-resolution model has one each"
        )
    kinds = tuple(np.dtype(detail["dtype"]).name for detail in (*inputs, *outputs))
    whole = kinds[0] == "uint8"
    quantized = any(detail["quantization"][0] for detail in (*inputs, *outputs))
    if kinds not in (("float32", "float32"), ("uint8", "uint8")) or quantized:
        raise SrkdError(f"{label} takes {kinds[0]} and gives {kinds[1]}: float32 in [0,1] or bytes are understood")
    sizes: list[Any] = [None if length < 0 else int(length) for length in inputs[0]["shape_signature"]]
    places = [axis for axis in (3, 1) if len(sizes) == 4 and sizes[axis] in (1, 3)]
    if not places:
        raise SrkdError(f"{label} takes images of shape {sizes}: expected (N, H, W, 3) or (N, 3, H, W), or 1 for 3")
    channels = sizes.pop(places[0])
    batch, height, width = sizes
    return Image(channels, height, width, one=batch == 1, last=places[0] == 3, whole=whole)
