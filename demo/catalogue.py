"""The demo's models and sample photos, and the catalogue of them that the app reads."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from PIL import Image

from compressor.base.errors import SrkdError
from compressor.images.files import read_rgb_u8
from compressor.images.resize import downscale_u8
from compressor.images.sets import embedded_photos
from compressor.models.networks.base import Descriptor
from compressor.runtimes.onnx_runtime import open_file
from compressor.runtimes.table import OpenOptions
from demo.files import CATALOGUE, hashed_address

if TYPE_CHECKING:
    import onnx

SCHEMA = "srkd.demo-models/1"
SUFFIX = ".onnx"

SAMPLES = Path(__file__).parent / "samples"

Role = Literal["student", "teacher", "int8"]


@dataclass(frozen=True)
class Model:
    """An ONNX file for the browser. `role` and `precision` determine its label in the app."""

    name: str
    role: Role
    precision: str
    content: bytes
    sha256: str
    descriptor: Descriptor
    input: str
    output: str
    architecture: str | None
    metadata: Mapping[str, str]
    producer: str
    textured: str | None = None
    """The name of the other end of this student, to which the page's slider goes from this one."""
    strength: float | None = None

    @property
    def address(self) -> str:
        return hashed_address("models", self.name, SUFFIX, self.content)

    def catalogue_entry(self) -> dict[str, Any]:
        """Return the model's entry in api/models.json."""
        descriptor, size = self.descriptor, self.descriptor.fixed_size
        return {
            "name": self.name,
            "role": self.role,
            "precision": self.precision,
            "url": self.address,
            "bytes": len(self.content),
            "sha256": self.sha256,
            "scale": descriptor.scale,
            "channels": descriptor.channels,
            "fixed_size": None if size is None else {"width": size[0], "height": size[1]},
            "size_multiple": descriptor.size_multiple,
            "min_size": descriptor.min_size,
            "receptive_radius": descriptor.receptive_radius,
            "input": self.input,
            "output": self.output,
            "architecture": self.architecture,
            "producer": self.producer,
            "textured": self.textured,
            "strength": self.strength,
            "metadata": dict(self.metadata),
        }


def read_model(path: Path, name: str, role: Role, *, limits: float = 1.0) -> Model:
    """Return the model in a file, opened in ONNX Runtime as in a browser; refuse a file that cannot run in a page."""
    if path.suffix.lower() != SUFFIX:
        raise SrkdError(f"{path} is not an ONNX file, and browsers run only those: name its checkpoint")
    file = path.resolve()
    runtime = open_file(file, OpenOptions(label=path.stem, threads=1, limits=limits))
    content = file.read_bytes()
    proto = _read_proto(content, path)
    return Model(
        name=name,
        role="int8" if runtime.precision == "int8" else role,
        precision=runtime.precision,
        content=content,
        sha256=hashlib.sha256(content).hexdigest(),
        descriptor=runtime.descriptor,
        input=proto.graph.input[0].name,
        output=proto.graph.output[0].name,
        architecture=None if runtime.spec is None else runtime.spec.arch,
        metadata=dict(runtime.metadata),
        producer=f"{proto.producer_name} {proto.producer_version}".strip(),
    )


def _read_proto(content: bytes, path: Path) -> onnx.ModelProto:
    import onnx

    proto = onnx.load_model_from_string(content)
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in proto.graph.initializer):
        raise SrkdError(f"{path} keeps weights in a file beside it, which a browser does not get: name its checkpoint")
    element_type = proto.graph.input[0].type.tensor_type.elem_type
    if element_type not in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16):
        type_name = onnx.TensorProto.DataType.Name(element_type).lower()
        raise SrkdError(f"{path} takes {type_name}, and the demo feeds float32 or float16 in [0,1]")
    return proto


@dataclass(frozen=True)
class Sample:
    """A sample photo as PNG, with its title and credit."""

    name: str
    title: str
    credit: str
    content: bytes
    width: int
    height: int
    focus: tuple[float, float]
    """The initial centre of view on a small screen, as shares of width and height, where networks differ most."""

    @property
    def address(self) -> str:
        return hashed_address("samples", self.name, ".png", self.content)

    def catalogue_entry(self) -> dict[str, Any]:
        """Return the sample's entry in api/models.json."""
        facts = {name: getattr(self, name) for name in ("name", "title", "credit", "width", "height", "focus")}
        return {**facts, "url": self.address, "bytes": len(self.content)}


def load_samples() -> tuple[Sample, ...]:
    """Return the sample photos: text, hair, foliage, fur, and a photo that is enlarged to megapixels.

    They are downscaled, so that they are as sharp as images in training. None was used to train the embedded networks.
    """
    photos = {**embedded_photos("val"), **embedded_photos("train")}
    astronaut, cat, coffee = (read_rgb_u8(photos[name]) for name in ("astronaut", "chelsea", "coffee"))
    return (
        _encode("timetable", "Text", "srkd, Apache-2.0", read_rgb_u8(SAMPLES / "timetable.webp"), (0.4, 0.62)),
        _encode("astronaut", "Hair", "NASA, public domain", downscale_u8(astronaut, 2), (0.6, 0.2)),
        _encode("leaves", "Leaves", "srkd, Apache-2.0", read_rgb_u8(SAMPLES / "leaves.webp"), (0.5, 0.5)),
        _encode("chelsea", "Fur", "Stéfan van der Walt, CC0", downscale_u8(cat, 2), (0.45, 0.4)),
        _encode("coffee", "Coffee", "Rachel Michetti, CC0", coffee, (0.5, 0.5)),
    )


def _encode(name: str, title: str, credit: str, rgb_u8: torch.Tensor, focus: tuple[float, float]) -> Sample:
    pixels = rgb_u8.reshape(rgb_u8.shape[-3:]).permute(1, 2, 0).contiguous().numpy()
    png = io.BytesIO()
    Image.fromarray(pixels).save(png, "PNG", optimize=True)
    return Sample(name, title, credit, png.getvalue(), pixels.shape[1], pixels.shape[0], focus)


def site_contents(
    models: Sequence[Model], samples: Sequence[Sample], plan: Mapping[str, object] | None = None
) -> dict[str, bytes]:
    """What the app shows, by address: the models, the samples and their catalogue.

    With a plan (`id`, `width`, `height`, `target_ms` or None) the page times the models of its shapes' names instead.
    """
    catalogue = {
        "schema": SCHEMA,
        "models": [model.catalogue_entry() for model in models],
        "samples": [sample.catalogue_entry() for sample in samples],
        "plan": plan,
    }
    text = json.dumps(catalogue, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    contents = {model.address: model.content for model in models}
    contents |= {sample.address: sample.content for sample in samples}
    return {**contents, CATALOGUE: text.encode()}
