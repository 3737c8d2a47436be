"""`srkd export`: writing a network in the formats that other programs run."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import click

from compressor.base.errors import SrkdError
from compressor.models.checkpoints.licence import commercial_warning
from export.formats.table import FORMATS
from srkd.cli.verb import verb
from srkd.options.verbs import ExportOptions
from srkd.terminal.console import Console
from srkd.terminal.tables import Table

if TYPE_CHECKING:
    from export.writing.exporting import ExportReport


@verb(
    "export",
    ExportOptions,
    examples=(
        "srkd export runs/first",
        "srkd export student.safetensors --onnx -o exported",
        "srkd export runs/first --for upscayl,vapoursynth -o for-friends",
        "srkd export student.safetensors --int8 --calibrate photos --max-drop 0.05",
        "srkd export student.safetensors --all --json",
    ),
    csv=True,
)
@click.option("--all", "every_format", is_flag=True, help="Every format this machine can build.")
def command(console: Console, options: ExportOptions, *, every_format: bool) -> None:
    """Write MODEL in other formats, each compared with the network.

    The comparison runs on photos, saturated colours, stripes and dots of one pixel, noise, odd sizes and a batch. A
    file that differs is not kept.
    """
    from srkd.api.export import run_export

    formats = tuple(FORMATS) if every_format else options.formats
    with console.context() as context:
        report = run_export(replace(options, formats=formats), context)
    result = {"model": str(options.model), **vars(report)}
    console.report("export", result, lambda console, _: show(console, report), rows=lambda _: rows(report))
    # --all skips formats that this machine cannot build; formats given by name must be written.
    for_exit_code = [
        file for file in report.files if not every_format or file.format in options.formats or file.verdict == "failed"
    ]
    missing = [f"{file.format}: {file.reason}" for file in for_exit_code if file.path is None]
    missing += [f"{host.host}: {host.reason}" for host in report.hosts if host.reason is not None]
    if missing:
        raise SrkdError("; ".join(missing))


def rows(report: ExportReport) -> list[dict[str, object]]:
    """A row for each format, and for each file of a host."""
    of_hosts = [{"host": host.host, **vars(file)} for host in report.hosts for file in host.files]
    return [*({"host": None, **vars(file)} for file in report.files), *of_hosts]


def show(console: Console, report: ExportReport) -> None:
    """Print a row for each format, then their paths; a line or two for each host."""
    for host in report.hosts:
        if host.folder is not None:
            paths = [*(file.path for file in host.files if file.path is not None), *host.also]
            names = ", ".join(str(path.relative_to(host.folder)) for path in paths)
            console.result(f"wrote {host.folder}: {names}")
            console.say(f"{host.host}: expect {host.expect or 'a time that cannot be measured here'}")
        for note in host.notes:
            console.say(f"{host.host}: {note}")
    if report.files or not report.hosts:
        show_formats(console, report)
    for warning in (report.warning, commercial_warning(report.licence)):
        if warning is not None:
            console.warn(warning)


def show_formats(console: Console, report: ExportReport) -> None:
    """Print a row for each format, then their paths."""
    lines = [
        (
            file.format,
            file.precision,
            "-" if file.path is None else file.path.name,
            "-" if file.bytes is None else f"{file.bytes / 1e6:.2f}",
            "-" if file.parity is None else f"{file.parity.max_abs:.1e}",
            "-" if file.parity is None else "equal" if file.parity.psnr is None else f"{file.parity.psnr:.1f} dB",
            file.verdict,
            f"{file.seconds:.1f}",
        )
        for file in report.files
    ]
    headings = ["format", "precision", "file", "MB", "largest difference", "PSNR to the network", "verdict", "s"]
    console.table(Table(headings, lines))
    for file in report.files:
        if file.path is not None:
            console.result(f"wrote {file.path}")
    console.detail(f"compared on: {', '.join(report.compared_on)}")
    for file in report.files:
        if file.quality is not None and file.path is not None:
            console.result(f"{file.format}: {file.quality} on {file.quality.photos} photos")
        if file.speed is not None:
            console.result(f"{file.format}: {file.speed}")
            if file.speed.comparison.verdict == "faster" and file.speed.why is not None:
                console.say(f"{file.format}: {file.speed.why}")
    for file in report.files:
        if file.parity is not None and file.path and file.parity.max_abs > FORMATS[file.format].bounds.max_abs:
            console.say(f"{file.format}: the largest difference is on {file.parity.on}, unlike any photo")
        if file.reason and file.path is not None:
            console.say(f"{file.format}: {file.reason}")
        if file.facts:
            facts = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in file.facts.items())
            console.say(f"{file.format}: {facts}")
