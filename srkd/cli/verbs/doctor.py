"""`srkd doctor`: a list of installed and missing packages, with the commands that install them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compressor.base.errors import SrkdError
from srkd.cli.verb import verb
from srkd.terminal.console import Console
from srkd.terminal.tables import Table

if TYPE_CHECKING:
    from srkd.api.doctor import Diagnosis, Piece


@verb("doctor", examples=("srkd doctor", "srkd doctor --json"), csv=True)
def command(console: Console) -> None:
    """Show what is installed, and how to get what is missing.

    The list says what each missing package would add, and the command that installs it.
    """
    from srkd.api.doctor import REINSTALL, REQUIRED, diagnose

    diagnosis = diagnose()
    console.report("doctor", diagnosis, show, rows=lambda diagnosis: diagnosis.pieces)
    missing = [piece.name for piece in diagnosis.group(REQUIRED) if not piece.ready]
    if missing:
        raise SrkdError(f"{', '.join(missing)} is missing: {REINSTALL}")


def show(console: Console, diagnosis: Diagnosis) -> None:
    """Print versions, then a row for each piece, and how to install missing ones."""
    from srkd.api.doctor import OF_FORMATS, OF_RUNTIMES, OTHERS, REQUIRED

    console.say(", ".join(f"{piece.name} {piece.version or 'MISSING'}" for piece in diagnosis.group(REQUIRED)))
    console.say(f"GPU: {diagnosis.gpu['name'] if diagnosis.gpu else 'none that torch can use'}")
    console.say(f"ONNX Runtime runs on: {', '.join(diagnosis.onnxruntime_devices)}")
    for line in diagnosis.int8:
        console.say(line)
    for title in (OF_FORMATS, OF_RUNTIMES, OTHERS):
        pieces = diagnosis.group(title)
        console.say("")
        rows = [(piece.name, _installed(piece), piece.adds) for piece in pieces]
        console.table(Table(["", "installed", "what it adds"], rows, title))
        names_by_remedy: dict[str, list[str]] = {}
        for piece in pieces:
            remedy = "; ".join(line for line in (piece.command, piece.remark) if line)
            if remedy:
                names_by_remedy.setdefault(remedy, []).append(piece.name)
        # One line each, even a long one: users copy the command.
        for remedy, names in names_by_remedy.items():
            console.result(f"{', '.join(names)}: {remedy}")
    for note in diagnosis.notes:
        console.warn(note)


def _installed(piece: Piece) -> str:
    ready = "no" if not piece.ready else "yes" if piece.remark is None else "partly"
    return f"{ready}, {piece.version}" if piece.version else ready
