"""`srkd doctor`: a list of installed and missing packages, with the commands that install them."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

from compressor.base.errors import SrkdError
from srkd import __version__
from srkd.cli.verb import verb
from srkd.cli.verbs.export import parity_cells
from srkd.options.verbs import DoctorOptions
from srkd.terminal.console import Console, cell
from srkd.terminal.tables import Table

if TYPE_CHECKING:
    from export.writing.trt_selftest import TrtReport
    from srkd.api.doctor import Diagnosis, Piece


@verb("doctor", DoctorOptions, examples=("srkd doctor", "srkd doctor --json", "srkd doctor --trt"), csv=True)
def command(console: Console, options: DoctorOptions) -> None:
    """Show what is installed, and how to get what is missing.

    The list says what each missing package would add, and the command that installs it.
    """
    from srkd.api.doctor import diagnose

    if options.trt:
        _test_tensorrt(console)
        return
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


def _test_tensorrt(console: Console) -> None:
    from export.writing.trt_selftest import self_test

    with console.context() as context:
        report = self_test(context.progress)
    console.report(
        "doctor", {"tensorrt": report}, lambda console, _: _show_trials(console, report), lambda _: report.trials
    )
    if report.obstacle is not None:
        raise SrkdError(f"TensorRT was not tried: {report.obstacle}")
    failed = [trial for trial in report.trials if not trial.passed]
    if failed:
        raise SrkdError("; ".join(f"{trial.precision}: {trial.reason}" for trial in failed))


def _show_trials(console: Console, report: TrtReport) -> None:
    """Print the facts for an issue: the machine, then a row for each precision."""
    if (machine := report.machine) is None:
        return
    console.result(
        f"srkd {__version__}, TensorRT {machine.tensorrt}, {machine.gpu} ({machine.capability}), "
        f"driver {machine.driver}, "
        f"{report.binding}, Python {platform.python_version()}, {platform.platform(terse=True)}"
    )
    rows = [
        (
            trial.precision,
            "passed" if trial.passed else "failed",
            *parity_cells(trial.parity),
            trial.typed_by or "-",
            cell(trial.build_seconds, "{:.1f}"),
            cell(trial.milliseconds, "{:.3f}"),
            "yes" if trial.graph else "no",
        )
        for trial in report.trials
    ]
    headings = ["precision", "verdict", "largest difference", "PSNR", "typed by", "build s", "ms", "CUDA graph"]
    console.table(Table(headings, rows, "an EDSR of 16 channels and 2 blocks, 96x64 to 192x128"))
    for trial in report.trials:
        if trial.reason:
            console.result(f"{trial.precision}: {trial.reason}")
