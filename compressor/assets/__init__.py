"""Files that come with srkd: the embedded teacher and the student distilled from it, each with its model card."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent
LICENCE = "Apache-2.0"
"""The licence of both networks, as in their model cards."""


def embedded_teacher() -> Path:
    """Return the path of EDSR 16/48 ×4, trained by srkd itself; teacher.md beside it is its model card."""
    return FOLDER / "teacher.safetensors"


def embedded_student() -> Path:
    """Return the path of EDSR 16/24 ×4, distilled from the embedded teacher; student.md beside it is its model card."""
    return FOLDER / "student.safetensors"
