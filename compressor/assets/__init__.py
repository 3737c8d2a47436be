"""Files that come with srkd: the embedded teacher with its model card, and students of other models (shipped.py)."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent
LICENCE = "Apache-2.0"
"""The licence of the embedded teacher, as in its model card."""


def embedded_teacher() -> Path:
    """Return the path of EDSR 16/48 ×4, trained by srkd itself; teacher.md beside it is its model card."""
    return FOLDER / "teacher.safetensors"
