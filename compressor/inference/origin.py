"""Which checkpoint an exported file was made from, found by its hash, for callers that want the network itself."""

from __future__ import annotations

from pathlib import Path

from compressor.base.context import Note, no_note
from compressor.base.errors import SrkdError
from compressor.base.files import file_sha256
from compressor.inference.open import model_file, read_metadata
from compressor.runtimes.table import runtime_of

SOURCE = "srkd.source_sha256"
CHECKPOINTS = frozenset({".safetensors", ".pt", ".pth", ".ckpt"})


def checkpoint_beside(path: Path) -> Path:
    """The checkpoint that `path` was exported from, in its folder or the one above; one line where there is none."""
    source = read_metadata(path).get(SOURCE, "")
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
