"""`srkd plot`: a picture of a run's curves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from srkd.cli.verb import verb
from srkd.options.verbs import PlotOptions
from srkd.terminal.console import Console

if TYPE_CHECKING:
    from srkd.api.plot import PlotReport


@verb(
    "plot",
    PlotOptions,
    "srkd.api.plot.run_plot",
    examples=("srkd plot runs/first", "srkd plot runs/first runs/second -o compared.png"),
)
def command(console: Console, report: PlotReport) -> None:
    """Draw the curves of RUNs as a PNG picture.

    One run: quality, loss and its terms, learning rate. Several runs, or a plan of runs: quality and loss in one
    diagram. An unfinished run is drawn as far as it has come.
    """
    steps = ", ".join(f"{name} to step {step:,}" for name, step in report.steps.items())
    console.result(f"wrote {report.path}: {steps}")
