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
    examples=(
        "srkd compare runs/first runs/second",
        "srkd compare runs/* --csv",
        "srkd compare runs/plan --data sets",
        "srkd compare runs/plan --data sets --latex > table.tex",
    ),
    csv=True,
    latex=True,
)
def command(console: Console, options: CompareOptions) -> None:
    """Compare the methods of RUNs, each over its seeds.

    The table has mean and standard deviation of the scores on the validation images, as the runs measured them, and
    gains over the baselines of a plan, else of the best method. A plan of runs stands for its runs. Runs of another
    scale, protocol or of other images are refused. With --data all students are scored on benchmark sets, as by srkd
    evaluate; a second call computes nothing.
    """
    from srkd.api.compare import run_compare

    with console.context() as context:
        comparison = run_compare(options, context)
    if console.wants_latex:
        console.write_latex(comparison.latex())
    else:
        console.report("compare", comparison, show, lambda comparison: (*comparison.rows, *comparison.gains))


def show(console: Console, comparison: Comparison) -> None:
    """Print a table for each reference, and what its reader must know."""
    console.result(comparison.shared_line())
    for reference in comparison.references:
        console.table(comparison.table(reference))
    for line in comparison.lines():
        console.result(line)
