"""`srkd compare`: methods side by side, each over its seeds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from srkd.cli.verb import verb
from srkd.options.verbs import CompareOptions
from srkd.terminal.console import Console

if TYPE_CHECKING:
    from srkd.reports.comparison import Comparison


@verb(
    "compare",
    CompareOptions,
    "srkd.api.compare.run_compare",
    examples=(
        "srkd compare runs/first runs/second",
        "srkd compare runs/* --csv",
        "srkd compare runs/plan --data sets",
        "srkd compare runs/plan --data sets --latex > table.tex",
    ),
    rows=lambda comparison: (*comparison.rows, *comparison.gains),
    latex=lambda comparison: comparison.latex(),
)
def command(console: Console, comparison: Comparison) -> None:
    """Compare the methods of RUNs, each over its seeds.

    The table has mean and standard deviation of the scores on the validation images, as the runs measured them, and
    gains over the baselines of a plan, else of the best method. A plan of runs stands for its runs. Runs of another
    scale, protocol or of other images are refused. With --data all students are scored on benchmark sets, as by srkd
    evaluate; a second call computes nothing.
    """
    console.result(comparison.shared_line())
    for reference in comparison.references:
        console.table(comparison.table(reference))
    for line in comparison.lines():
        console.result(line)
