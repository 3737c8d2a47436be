"""Which checkpoint an exported file was made from, found by its hash, for callers that want the network itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from compressor.base.context import Note, no_note
from compressor.base.errors import MissingExtra, SrkdError
from compressor.base.files import file_sha256
from compressor.inference.open import RUNTIMES, absent, model_file, open_model, runtime_of
from compressor.runtimes.metadata import read_sidecar
from compressor.runtimes.onnx_file import read_facts

SOURCE = "srkd.source_sha256"
CHECKPOINTS = frozenset({".safetensors", ".pt", ".pth", ".ckpt"})


def said_by(path: Path) -> Mapping[str, str]:
    """The `srkd.*` keys of an exported file. Where it cannot run, it is read without being run."""
    read = READERS.get(runtime_of(path))
    return read(path) if read is not None else open_model(path).metadata


def checkpoint_beside(path: Path) -> Path:
    """The checkpoint that `path` was exported from, in its folder or the one above; one line where there is none."""
    source = said_by(path).get(SOURCE, "")
    if not source:
        raise SrkdError(f"{path} does not say what it was made from")
    folder = path.resolve().parent
    for file in (*_checkpoints(folder), *_checkpoints(folder.parent)):
        if file_sha256(file) == source:
            return file
    raise SrkdError(f"{path} was made from a checkpoint with the SHA-256 {source[:12]}…, which is not beside it")


def checkpoint_of(model: str | Path, announce: Note = no_note) -> Path:
    """A checkpoint or run folder itself; of an exported file the checkpoint beside it."""
    path = Path(model)
    if runtime_of(path) == "torch":
        return path
    file = model_file(path)
    try:
        found = checkpoint_beside(file)
    except SrkdError as error:
        raise SrkdError(f"{error}: an export starts from a checkpoint, name that") from error
    announce(f"{path} is an exported file: starting from {found}, which it was made from")
    return found


def _checkpoints(folder: Path) -> list[Path]:
    try:
        return sorted(file for file in folder.iterdir() if file.suffix.lower() in CHECKPOINTS and file.is_file())
    except OSError as error:
        raise SrkdError(f"{folder}: {error.strerror or error}") from error


def _of_onnx(path: Path) -> Mapping[str, str]:
    return read_facts(path).metadata


def _of_sidecar(path: Path) -> Mapping[str, str]:
    return read_sidecar(path).metadata


def _of_engine(path: Path) -> Mapping[str, str]:
    from compressor.runtimes.tensorrt.engine_file import read_engine

    facts = read_engine(path).facts
    return {} if facts is None else facts.metadata


def _of_package(path: Path) -> Mapping[str, str]:
    missing = absent(RUNTIMES["coreml"].needs)
    if missing:
        raise SrkdError(f"{path}: {MissingExtra(', '.join(missing), 'coreml')}")
    from compressor.runtimes.coreml_runtime import read_metadata

    return read_metadata(path)


READERS: Mapping[str, Callable[[Path], Mapping[str, str]]] = MappingProxyType(
    {
        "onnxruntime": _of_onnx,
        "ncnn": _of_sidecar,
        "executorch": _of_sidecar,
        "tensorrt": _of_engine,
        "coreml": _of_package,
    }
)
"""Formats that say what they are to others than their own runtime."""
