"""Find the checkpoint that an exported file was made from by its hash, for callers that need the network itself."""

from __future__ import annotations

from pathlib import Path

from compressor.base.context import Note, no_note
from compressor.base.errors import SrkdError
from compressor.base.files import file_sha256
from compressor.inference.open import model_file, read_metadata
from compressor.runtimes.table import runtime_of

SOURCE = "srkd.source_sha256"
CHECKPOINTS = frozenset({".safetensors", ".pt", ".pth", ".ckpt"})


def find_source_checkpoint(path: Path) -> Path:
    """Return the checkpoint that `path` was exported from, in its folder or the one above; one line where it is not."""
    source = read_metadata(path).get(SOURCE, "")
    if not source:
        raise SrkdError(f"{path} does not say what it was made from")
    folder = path.resolve().parent
    for file in (*_list_checkpoints(folder), *_list_checkpoints(folder.parent)):
        if file_sha256(file) == source:
            return file
    raise SrkdError(f"{path} was made from a checkpoint with the SHA-256 {source[:12]}…, which is not beside it")


def resolve_checkpoint(model: str | Path, note: Note = no_note) -> Path:
    """Return a checkpoint or run folder itself; for an exported file the checkpoint it was made from."""
    path = Path(model)
    if runtime_of(path) == "torch":
        return path
    file = model_file(path)
    try:
        checkpoint = find_source_checkpoint(file)
    except SrkdError as error:
        raise SrkdError(f"{error}: an export starts from a checkpoint, name that") from error
    note(f"{path} is an exported file: starting from {checkpoint}, which it was made from")
    return checkpoint


def _list_checkpoints(folder: Path) -> list[Path]:
    try:
        return sorted(file for file in folder.iterdir() if file.suffix.lower() in CHECKPOINTS and file.is_file())
    except OSError as error:
        raise SrkdError(f"{folder}: {error.strerror or error}") from error
