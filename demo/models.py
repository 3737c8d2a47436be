"""ONNX files as the app's page is told of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from compressor.base.errors import SrkdError
from compressor.runtimes.onnx_runtime import OnnxRuntime
from demo.files import hashed_address, read_file

if TYPE_CHECKING:
    import onnx

Role = Literal["student", "teacher", "int8"]

SUFFIX = ".onnx"


class NotForBrowsers(SrkdError):
    """A model that runs elsewhere, but not in a page: another file of the same network may."""


@dataclass(frozen=True)
class Model:
    """One file that a browser will run. Sizes are in LR pixels; `fixed_size` is (width, height)."""

    name: str
    role: Role
    precision: str
    content: bytes
    sha256: str
    scale: int
    channels: int
    size_multiple: int
    min_size: int
    receptive_radius: int | None
    fixed_size: tuple[int, int] | None
    input: str
    output: str
    architecture: str | None
    metadata: Mapping[str, str]

    @property
    def address(self) -> str:
        return hashed_address("models", self.name, SUFFIX, self.content)

    @property
    def megabytes(self) -> float:
        return len(self.content) / 1e6


def read_model(path: Path, name: str, role: Role) -> Model:
    """Open a file as a browser will, in ONNX Runtime, and keep its bytes; what a page cannot run is refused here."""
    if path.suffix.lower() != SUFFIX:
        raise NotForBrowsers(f"{path} is no ONNX file, and browsers run only those")
    file = path.resolve()
    runtime = OnnxRuntime(file, label=path.stem, threads=1)
    content = read_file(file)
    graph = _graph(content, path)
    described = runtime.descriptor
    return Model(
        name=name,
        role="int8" if runtime.precision == "int8" else role,
        precision=runtime.precision,
        content=content,
        sha256=hashlib.sha256(content).hexdigest(),
        scale=described.scale,
        channels=described.channels,
        size_multiple=described.size_multiple,
        min_size=described.min_size,
        receptive_radius=described.receptive_radius,
        fixed_size=described.fixed_size,
        input=graph.input[0].name,
        output=graph.output[0].name,
        architecture=None if runtime.spec is None else runtime.spec.arch,
        metadata=dict(runtime.metadata),
    )


def _graph(content: bytes, path: Path) -> onnx.GraphProto:
    import onnx

    graph = onnx.load_model_from_string(content).graph
    outside = [tensor.name for tensor in graph.initializer if tensor.data_location == onnx.TensorProto.EXTERNAL]
    if outside:
        raise NotForBrowsers(f"{path} keeps weights in a file beside it, which a browser does not get")
    kind = graph.input[0].type.tensor_type.elem_type
    if kind != onnx.TensorProto.FLOAT:
        told = onnx.TensorProto.DataType.Name(kind).lower()
        raise NotForBrowsers(f"{path} takes {told}, and the demo feeds float32 in [0,1]")
    return graph


def listed(model: Model) -> dict[str, Any]:
    """A model's entry in api/models.json."""
    size = model.fixed_size
    return {
        "name": model.name,
        "role": model.role,
        "precision": model.precision,
        "url": model.address,
        "bytes": len(model.content),
        "sha256": model.sha256,
        "scale": model.scale,
        "channels": model.channels,
        "fixed_size": None if size is None else {"width": size[0], "height": size[1]},
        "size_multiple": model.size_multiple,
        "min_size": model.min_size,
        "receptive_radius": model.receptive_radius,
        "input": model.input,
        "output": model.output,
        "architecture": model.architecture,
        "metadata": dict(model.metadata),
    }
