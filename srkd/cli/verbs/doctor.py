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
    from srkd.api.doctor import diagnose

    diagnosis = diagnose()
    console.report("doctor", diagnosis, show, rows)
    if diagnosis.missing_core:
        raise SrkdError(f"{', '.join(diagnosis.missing_core)} is missing: pip install --force-reinstall srkd")


def groups(diagnosis: Diagnosis) -> dict[str, tuple[Piece, ...]]:
    """The rows of each table by its title."""
    return {
        "formats of srkd export": diagnosis.formats,
        "runtimes of profile, evaluate and upscale": diagnosis.runtimes,
        "others": diagnosis.others,
    }


def installed_text(piece: Piece) -> str:
    return "no" if not piece.ready else "yes" if piece.remark is None else "partly"


def rows(diagnosis: Diagnosis) -> list[dict[str, object]]:
    return [{"group": title, **vars(piece)} for title, pieces in groups(diagnosis).items() for piece in pieces]


def show(console: Console, diagnosis: Diagnosis) -> None:
    """Print versions, then a row for each piece, and how to install missing ones."""
    console.say(", ".join(f"{package.name} {package.version or 'MISSING'}" for package in diagnosis.core))
    console.say(f"GPU: {diagnosis.gpu['name'] if diagnosis.gpu else 'none that torch can use'}")
    console.say(f"ONNX Runtime runs on: {', '.join(diagnosis.onnxruntime_devices)}")
    for line in diagnosis.int8.lines():
        console.say(line)
    for title, pieces in groups(diagnosis).items():
        cells = []
        for piece in pieces:
            version = f", {piece.version}" if piece.version else ""
            cells.append((piece.name, installed_text(piece) + version, piece.adds))
        console.say("")
        console.table(Table(["", "installed", "what it adds"], cells, title))
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
