"""Places of checkpoints: a file, a folder of a run or of the hub, two files of ncnn. Importing it imports no torch."""

from __future__ import annotations

from pathlib import Path

from compressor.base.errors import SrkdError
from compressor.base.files import file_sha256
from compressor.base.interrupts import resume_command

RUN_FOLDER_WEIGHTS, RUN_FOLDER_FACTS = "student.safetensors", "run.json"
FAITHFUL, TEXTURED = "faithful.safetensors", "textured.safetensors"
"""The two ends of a student that lies between them, beside it."""
HUB_FOLDER_WEIGHTS = "model.safetensors"
NCNN_MAGIC = b"7767517"
NCNN_BINARY_MAGIC = int(NCNN_MAGIC).to_bytes(4, "little")
AGAIN = "download or save the file again"


def weights_file(path: Path) -> Path:
    """Return the file that holds the weights: `path` itself, the student of a run folder, the model of a hub folder."""
    if not path.is_dir():
        return path
    for name in (RUN_FOLDER_WEIGHTS, HUB_FOLDER_WEIGHTS):
        if (path / name).is_file():
            return path / name
    if (path / RUN_FOLDER_FACTS).is_file():
        raise SrkdError(f"{path} is a run that is not finished, without {RUN_FOLDER_WEIGHTS}: {resume_command(path)}")
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
