"""Files that come with srkd: the embedded teacher and its model card."""

from __future__ import annotations

from pathlib import Path

from compressor.errors import SrkdError

FOLDER = Path(__file__).parent


def embedded_teacher() -> Path:
    """EDSR 16/48 ×4, trained by srkd itself; teacher.md beside it is its model card."""
    path = FOLDER / "teacher.safetensors"
    if not path.is_file():
        raise SrkdError(f"the embedded teacher is missing at {path}: reinstall srkd, or give --teacher FILE")
    return path
