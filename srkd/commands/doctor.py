"""`srkd doctor`: what is installed, what is missing, and what to type."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compressor.errors import SrkdError
from srkd.console import Console
from srkd.verb import verb

if TYPE_CHECKING:
    from srkd.doctor import Diagnosis, Piece

EPILOG = """Examples:

\b
  srkd doctor
  srkd doctor --json
"""


@verb("doctor", epilog=EPILOG)
def command(console: Console) -> None:
    """Tell what is installed here, what each missing piece would add, and the command that brings it."""
    from srkd.doctor import diagnose

    diagnosis = diagnose()
    if console.wants_json:
        console.emit("doctor", diagnosis)
    else:
        show(console, diagnosis)
    absent = [package.name for package in diagnosis.core if package.version is None]
    if absent:
        raise SrkdError(f"{', '.join(absent)} is missing: pip install --force-reinstall srkd")


def show(console: Console, diagnosis: Diagnosis) -> None:
    """Versions first, then a line a piece."""
    console.say(", ".join(f"{package.name} {package.version or 'MISSING'}" for package in diagnosis.core))
    console.say(f"GPU: {diagnosis.gpu['name'] if diagnosis.gpu else 'none that torch can use'}")
    console.say(f"ONNX Runtime runs on: {', '.join(diagnosis.onnxruntime_devices)}")
    for title, pieces in (
        ("formats of srkd export", diagnosis.formats),
        ("runtimes of profile, evaluate and upscale", diagnosis.runtimes),
        ("others", diagnosis.others),
    ):
        console.table(["", "here", "what it adds", "to have it"], [_row(piece) for piece in pieces], title=title)


def _row(piece: Piece) -> tuple[str, ...]:
    here = "no" if not piece.ready else "yes" if piece.remark is None else "partly"
    told = piece.command or piece.remark or ""
    return piece.name, here, piece.adds, told
