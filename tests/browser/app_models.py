"""ONNX files for the browser tests: the embedded networks, tiny ones, and ones that must be refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from io import BytesIO
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto
from PIL import Image

from benchmarks.embedded_student import embedded_student
from compressor.assets import embedded_teacher
from compressor.images.files import read_rgb_u8
from compressor.images.metrics import to_u8
from compressor.images.resize import downscale_u8
from compressor.images.sets import embedded_photos
from compressor.inference.super_resolve import super_resolve
from compressor.models.checkpoints.load import load_checkpoint
from compressor.models.networks.base import Network, Spec
from compressor.models.networks.compact import CompactSpec
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.rcan import RCANSpec
from compressor.models.networks.registry import build
from compressor.models.students.blend import between
from compressor.runtimes.onnx_runtime import OnnxRuntime
from compressor.runtimes.table import OpenOptions
from export.convert.to_onnx import convert
from export.formats.conversion import Conversion, FileOptions
from export.writing.exporting import Source, export_metadata
from tests.browser.app_site import Model
from tests.support.networks import tiny

TINY = EDSRSpec(2, width=8, depth=2)


class Models:
    """ONNX files in one folder, written on first use."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def student(self) -> Model:
        return self._of(load_checkpoint(embedded_student()).network, "student", "student")

    @cached_property
    def teacher(self) -> Model:
        return self._of(load_checkpoint(embedded_teacher()).network, "teacher", "teacher")

    @cached_property
    def tiny(self) -> Model:
        """EDSR ×2 of 2 blocks and 8 channels, with random weights."""
        return self._build(TINY, "tiny")

    def strengths(self, *strengths: float) -> list[Model]:
        """Blends of the tiny network and one whose weights are a little larger, by their strength."""
        first, last = build(TINY, seed=1), build(TINY, seed=1)
        last.load_state_dict({name: 1.1 * tensor for name, tensor in last.state_dict().items()})
        return [self._of(between(first, last, each), f"strength-{each:g}", "student") for each in strengths]

    @cached_property
    def wide(self) -> Model:
        """A teacher that takes seconds where the tiny network takes almost no time."""
        return replace(self._build(EDSRSpec(2, width=48, depth=8), "wide"), role="teacher")

    @cached_property
    def four(self) -> Model:
        return self._build(EDSRSpec(4, width=8, depth=1), "four")

    @cached_property
    def restoring(self) -> Model:
        """A network that keeps the size, for noise and JPEG blocks."""
        return self._build(CompactSpec(1, width=4, depth=2), "restoring")

    @cached_property
    def luminance(self) -> Model:
        return self._build(CompactSpec(2, width=4, depth=2, channels=1), "luminance")

    @cached_property
    def pooling(self) -> Model:
        return self._build(RCANSpec(2, width=4, groups=1, depth=1, hidden=1), "pooling")

    @cached_property
    def carn(self) -> Model:
        return self._build(tiny("carn", 2), "carn")

    def fixed(self, width: int, height: int) -> Model:
        """The tiny network as a file that takes pictures of one size only."""
        model = onnx.load(self.tiny.path)
        for port, scale in ((model.graph.input[0], 1), (model.graph.output[0], TINY.scale)):
            for dimension, size in zip(port.type.tensor_type.shape.dim, (1, 3, height, width), strict=True):
                dimension.dim_value = size if size < 4 else size * scale
        del model.graph.value_info[:]
        return self.written(f"fixed-{width}x{height}", model, self.tiny)

    def _build(self, spec: Spec, name: str) -> Model:
        return self._of(build(spec, seed=1), name, "student")

    @cached_property
    def half(self) -> Model:
        """The tiny network with 16-bit weights, inputs and outputs."""
        model = onnx.load(self.tiny.path)
        for tensor in model.graph.initializer:
            if tensor.data_type == TensorProto.FLOAT:
                values = onnx.numpy_helper.to_array(tensor).astype(np.float16)
                tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
        for port in (*model.graph.input, *model.graph.output):
            port.type.tensor_type.elem_type = TensorProto.FLOAT16
        del model.graph.value_info[:]
        return self.written("half", model, self.tiny, precision="fp16")

    @cached_property
    def int8(self) -> Model:
        """The tiny network through onnxruntime's own quantize_static: QDQ, activations of 8 bits.

        Weights have 7 bits: with 8, sums of products overflow on x86 without VNNI, in Python but not in the browser.
        """
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

        class Photos(CalibrationDataReader):  # type: ignore[misc]
            def __init__(self) -> None:
                photo = torch.from_numpy(sample_rgb("chelsea", 48).copy()).permute(2, 0, 1)[None].float() / 255
                self.left = [{"input": photo.numpy()}]

            def get_next(self) -> dict[str, NDArray[np.float32]] | None:
                return self.left.pop() if self.left else None

        path = self.folder / "int8.onnx"
        quantize_static(
            self.tiny.path,
            path,
            Photos(),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=True,
        )
        return replace(self.tiny, path=path, name="int8", role="int8", precision="int8")

    def described(self, model: Model, metadata: Mapping[str, str]) -> Model:
        """Return the model with further keys in the list and in its file, which the page reads once it is open."""
        graph = onnx.load(model.path)
        for key, value in metadata.items():
            graph.metadata_props.add(key=key, value=value)
        described = self.written(f"{model.name}-described", graph, model, precision=model.precision)
        return replace(described, name=model.name, metadata=metadata)

    def written(self, name: str, model: onnx.ModelProto, like: Model, precision: str = "fp32") -> Model:
        path = self.folder / f"{name}.onnx"
        path.write_bytes(model.SerializeToString())
        return replace(like, path=path, name=name, precision=precision)

    def _of(self, network: Network, name: str, role: str) -> Model:
        path = self.folder / f"{name}.onnx"
        described = network.descriptor
        convert(Conversion(network, path, export_metadata(network, Source(name)), FileOptions()))
        return Model(
            path,
            name,
            role,
            scale=described.scale,
            channels=described.channels,
            receptive_radius=described.receptive_radius,
        )


def sample_rgb(name: str, side: int, shrink: int = 4) -> NDArray[np.uint8]:
    """Return the centre of an embedded photo, downscaled by `shrink`, as (side,side,3)."""
    photos = {**embedded_photos("val"), **embedded_photos("train")}
    small = downscale_u8(read_rgb_u8(photos[name]), shrink)
    small = small.reshape(small.shape[-3:])
    assert min(small.shape[-2:]) >= side, f"{name} has no {side} pixels a side when it is {shrink} times smaller"
    top, left = (small.shape[-2] - side) // 2, (small.shape[-1] - side) // 2
    return np.ascontiguousarray(small[:, top : top + side, left : left + side].permute(1, 2, 0).numpy())


def png(pixels: NDArray[np.uint8]) -> bytes:
    written = BytesIO()
    Image.fromarray(pixels).save(written, "PNG")
    return written.getvalue()


def upscaled(model: Model, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the same picture enlarged by onnxruntime in Python, untiled."""
    lr = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255
    runtime = OnnxRuntime(model.path, OpenOptions(threads=1))
    return np.asarray(to_u8(super_resolve(runtime, lr, tile=0).sr)[0].permute(1, 2, 0).numpy(), dtype=np.uint8)


def _graph(text: str, opsets: str = '"" : 18') -> Callable[[], onnx.ModelProto]:
    return lambda: onnx.parser.parse_model(f"<ir_version: 9, opset_import: [{opsets}]> foreign {text}")


FOREIGN: dict[str, tuple[Callable[[], onnx.ModelProto], str]] = {
    "classifier": (
        _graph("(float[n, 3, h, w] x) => (float[n, 3, 1, 1] y) { y = GlobalAveragePool(x) }"),
        "not an enlarged picture",
    ),
    "bytes": (_graph("(uint8[n, h, w, 3] x) => (float[n, h, w, 3] y) { y = Cast <to = 1> (x) }"), "takes uint8"),
    "unknown-operation": (
        _graph(
            "(float[n, 3, h, w] x) => (float[n, 3, h, w] y) { y = elsewhere.Sharpen(x) }", '"" : 18, "elsewhere" : 1'
        ),
        "cannot be opened by ONNX Runtime",
    ),
}
"""Models to be refused, by name, with the page's message."""
