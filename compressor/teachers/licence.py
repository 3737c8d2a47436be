"""The licence declared in a model's file (safetensors headers and ONNX metadata), or known for srkd's own files."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from safetensors import safe_open

from compressor.assets import FOLDER, LICENCE
from compressor.base.errors import SrkdError, one_line
from compressor.base.files import file_sha256
from compressor.models.checkpoints.licence import read_licence
from compressor.runtimes.onnx_file import MOST_BYTES, load_onnx


def licence_of(path: Path) -> str | None:
    """Return the licence of the weights in a file, or None if the file does not state it."""
    declared = read_licence(_metadata(path))
    if declared is None and path.suffix == ".safetensors":  # the bytes may be an embedded network's, anywhere on disk
        own = [file for file in FOLDER.glob("*.safetensors") if file.stat().st_size == path.stat().st_size]
        if any(file_sha256(file) == file_sha256(path) for file in own):
            return LICENCE
    return declared


def _metadata(path: Path) -> Mapping[str, str]:
    kind = path.suffix.lower()
    with suppress(SrkdError):  # opening the weights reports the error
        if kind == ".safetensors":
            with one_line(str(path)), safe_open(path, "np") as file:
                return file.metadata() or {}
        if kind == ".onnx" and path.stat().st_size < MOST_BYTES:
            return {entry.key: entry.value for entry in load_onnx(path, external_weights=False).metadata_props}
    return {}
