"""What an ONNX file says before it is run: precision, metadata, and whether all of it is there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from compressor.errors import SrkdError

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class OnnxFacts:
    """What the file says that a session does not. `precision` is what most weights are stored in."""

    precision: str
    metadata: Mapping[str, str]


def read_facts(path: Path) -> OnnxFacts:
    """Weights kept outside the file are looked for, not read; what is no ONNX ends here, in one line."""
    import onnx

    if not path.is_file():
        raise SrkdError(f"{path}: no such file")
    with one_line(f"{path} is not an ONNX file"):
        model = onnx.load_model(str(path), load_external_data=False)
        metadata = {prop.key: prop.value for prop in model.metadata_props if prop.key.startswith("srkd.")}
        facts = OnnxFacts(_precision(model), metadata)
    if not model.graph.node:
        raise SrkdError(f"{path} is not an ONNX file: it holds no nodes")
    _require_companions(model, path)
    return facts


def _require_companions(model: onnx.ModelProto, path: Path) -> None:
    """The files that a model keeps its weights in lie beside it, and reach as far as it says."""
    import onnx

    for tensor in model.graph.initializer:
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        told = {entry.key: entry.value for entry in tensor.external_data}
        name = told.get("location", "")
        plain = PurePosixPath(name)
        if not name or plain.is_absolute() or ".." in plain.parts:
            raise SrkdError(f"{path} keeps {tensor.name} in {name!r}, which is not beside it: refused")
        file = path.parent / name
        if not file.is_file():
            raise SrkdError(f"{path} keeps its weights in {name}, which is not beside it: put both in one folder")
        with one_line(f"{path} does not say where in {name} {tensor.name} is"):
            end = int(told.get("offset", "0")) + int(told.get("length", "0"))
        if file.stat().st_size < end:
            raise SrkdError(f"{file} has {file.stat().st_size} bytes: {tensor.name} of {path.name} ends at {end}")


def _precision(model: onnx.ModelProto) -> str:
    import onnx

    names: dict[int, str] = {onnx.TensorProto.FLOAT16: "fp16", onnx.TensorProto.BFLOAT16: "bf16"}
    names |= {onnx.TensorProto.INT8: "int8", onnx.TensorProto.UINT8: "int8"}
    sizes: Counter[str] = Counter()
    for tensor in model.graph.initializer:
        if len(tensor.dims) > 1:
            sizes[names.get(tensor.data_type, "fp32")] += int(np.prod(tensor.dims, dtype=np.float64))
    return sizes.most_common(1)[0][0] if sizes else "fp32"


@contextmanager
def one_line(what: str) -> Iterator[None]:
    """protobuf and ONNX Runtime raise types of their own, some of them only Exception."""
    try:
        yield
    except SrkdError:
        raise
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise SrkdError(f"{what}: {reason[:300]}") from error
