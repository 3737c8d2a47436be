"""The names of the degradations that srkd has: one YAML file each. Importing this module imports no torch."""

from __future__ import annotations

from pathlib import Path

NONE = "none"
"""The name of LR images as they are."""
LIKE = "like:"
"""What stands before the folder of pictures whose degradation is measured."""
OF_FILMS = ("video", "h264")
"""The names whose LR images look like frames of a film."""
METADATA = "srkd.degradation"
"""The key in the header of a student's file whose value is the JSON of its training's degradation."""
NAMED = Path(__file__).parent / "named"


def names() -> tuple[str, ...]:
    return tuple(sorted(path.stem for path in NAMED.glob("*.yaml")))


def is_degradation_file(text: str) -> bool:
    """Whether a degradation is given as a file: a text with an equals sign is a line of steps."""
    return text.endswith((".yaml", ".yml")) and not text.startswith(LIKE)


def absolute_degradation(text: str) -> str:
    """The text with absolute paths, so that it means the same in any folder."""
    if text.startswith(LIKE):
        return f"{LIKE}{Path(text.removeprefix(LIKE)).resolve()}"
    path, comma, clean = text.partition(",clean=")
    return f"{Path(path).resolve()}{comma}{clean}" if is_degradation_file(path) else text
