"""`srkd report`: one HTML file about run folders."""

from __future__ import annotations

from typing import TYPE_CHECKING

from srkd.cli.verb import verb
from srkd.options.verbs import ReportOptions
from srkd.terminal.console import Console

if TYPE_CHECKING:
    from srkd.api.report import ReportFile


@verb(
    "report",
    ReportOptions,
    "srkd.api.report.run_report",
    examples=(
        "srkd report runs/first",
        "srkd report runs/first --data photos --out first.html",
        "srkd report runs/first runs/second --out both.html",
    ),
)
def command(console: Console, report: ReportFile) -> None:
    """Write RUNs as one HTML file with scores, speed and pictures.

    It shows how much smaller and faster the student is, and how much quality that costs. It has curves, exported files,
    pictures of student, teacher and bicubic, and how to repeat the run. The file needs no internet. Several runs stand
    side by side.
    """
    for line in report.missing:
        console.say(line)
    console.result(f"wrote {report.path}: {report.bytes / 1e6:.2f} MB, for any browser")
