"""`srkd blend`: a student of another strength."""

from __future__ import annotations

from typing import TYPE_CHECKING

from srkd.cli.verb import verb
from srkd.options.verbs import BlendOptions
from srkd.terminal.console import Console

if TYPE_CHECKING:
    from srkd.api.blend import BlendedFile


@verb(
    "blend",
    BlendOptions,
    "srkd.api.blend.run_blend",
    examples=(
        "srkd blend runs/first --strength 0.6 -o student.safetensors",
        "srkd blend faithful.safetensors textured.safetensors --strength 1.25 -o student.safetensors",
    ),
)
def command(console: Console, result: BlendedFile) -> None:
    """Write the network of a strength between two that were trained from one start.

    A run of perceptual keeps both: faithful.safetensors (strength 0) and textured.safetensors (1).
    """
    console.result(f"wrote {result.path}: strength {result.strength:g}")
