"""Headers of checkpoints, read without their tensors. Importing this module imports no torch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from compressor.base.errors import SrkdError
from compressor.base.files import file_sha256

RUN_FOLDER_WEIGHTS, RUN_FOLDER_FACTS = "student.safetensors", "run.json"
HUB_FOLDER_WEIGHTS = "model.safetensors"
"""The name of the weights in a folder of the Hugging Face hub."""
HEADER_BYTES_LIMIT = 16 * 2**20
DTYPE_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
NCNN_MAGIC = b"7767517"
NCNN_BINARY_MAGIC = int(NCNN_MAGIC).to_bytes(4, "little")
AGAIN = "download or save the file again"


@dataclass(frozen=True)
class TensorEntry:
    """One tensor of a safetensors header; `begin` and `end` are byte offsets from the end of the header."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class Header:
    """A safetensors header: metadata, tensors, and the byte offset of their values."""

    metadata: Mapping[str, str]
    tensors: Mapping[str, TensorEntry]
    values_begin: int


def weights_file(path: Path) -> Path:
    """Return the file that holds the weights: `path` itself, the student of a run folder, the model of a hub folder."""
    if not path.is_dir():
        return path
    for name in (RUN_FOLDER_WEIGHTS, HUB_FOLDER_WEIGHTS):
        if (path / name).is_file():
            return path / name
    if (path / RUN_FOLDER_FACTS).is_file():
        raise SrkdError(
            f"{path} is a run that is not finished, without {RUN_FOLDER_WEIGHTS}: srkd compress --resume {path}"
        )
    raise SrkdError(
        f"{path}: a folder without {RUN_FOLDER_WEIGHTS} and {HUB_FOLDER_WEIGHTS}: give the folder of a finished run or "
        "of the Hugging Face hub, or a file"
    )


def ncnn_files(path: Path) -> tuple[Path, Path] | None:
    """Return .param and .bin of an ncnn network, given either; None if the file is none of both."""
    param, weights = path.with_suffix(".param"), path.with_suffix(".bin")
    if path.suffix.lower() == ".param":
        if not weights.is_file():
            raise SrkdError(f"its weights, {weights.name}, are not beside it")
        return path, weights
    with open(path, "rb") as handle:
        start = handle.read(8)
    if start.startswith((NCNN_MAGIC, NCNN_BINARY_MAGIC)):
        raise SrkdError("a network of ncnn without its weights: only a text NAME.param with NAME.bin beside it is read")
    is_pickle = start.startswith((b"PK\x03\x04", b"\x80"))
    return (param, path) if path.suffix.lower() == ".bin" and not is_pickle and param.is_file() else None


def checkpoint_sha256(path: Path) -> str:
    """Return the SHA-256 that an opened checkpoint has: of a network of ncnn that of its weights."""
    ncnn = ncnn_files(path)
    return file_sha256(ncnn[1] if ncnn else path)


def read_header(handle: IO[bytes], size_bytes: int) -> Header:
    """Return a safetensors header: length and JSON (huggingface/safetensors, README, 'Format')."""
    length = int.from_bytes(handle.read(8), "little")
    if length > min(HEADER_BYTES_LIMIT, size_bytes - 8):
        raise SrkdError(f"its header claims {length:,} bytes in a file of {size_bytes:,}: {AGAIN}")
    try:
        entries = json.loads(handle.read(length))
        metadata = entries.pop("__metadata__", {})
        tensors = {name: _tensor_entry(name, entry, size_bytes - 8 - length) for name, entry in entries.items()}
        if not all(isinstance(value, str) for value in metadata.values()):
            raise ValueError("metadata that is not text")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise SrkdError(f"its safetensors header is damaged ({str(error)[:80]}): {AGAIN}") from error
    return Header(metadata, tensors, 8 + length)


def _tensor_entry(name: str, entry: Any, values_bytes: int) -> TensorEntry:
    dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    if not all(type(number) is int and number >= 0 for number in (begin, end, *shape)):
        raise ValueError(f"{name}: a negative or fractional size")
    if end - begin != math.prod(shape) * DTYPE_BYTES[dtype] or end > values_bytes:
        raise ValueError(f"{name}: shape {shape} does not fit bytes {begin} to {end}")
    return TensorEntry(dtype, shape, begin, end)
