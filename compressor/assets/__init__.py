"""Files that come with srkd: the embedded teacher and the student distilled from it, each with its model card."""

from __future__ import annotations

from pathlib import Path

from compressor.base.errors import SrkdError

FOLDER = Path(__file__).parent
LICENCE = "Apache-2.0"
"""The licence of both networks, as in their model cards."""


def embedded_teacher() -> Path:
    """Return the path of EDSR 16/48 ×4, trained by srkd itself; teacher.md beside it is its model card."""
    return _require_file("teacher.safetensors", "or give --teacher FILE")


def embedded_student() -> Path:
    """Return the path of EDSR 16/24 ×4, distilled from the embedded teacher; student.md beside it is its model card."""
    return _require_file("student.safetensors", "or name a model")


def _require_file(name: str, alternative: str) -> Path:
    path = FOLDER / name
    if not path.is_file():
        raise SrkdError(f"the embedded {path.stem} is missing at {path}: reinstall srkd, {alternative}")
    return path
