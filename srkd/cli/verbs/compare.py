"""`srkd compare`: methods side by side, each over its seeds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compressor.base.errors import UsageError
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
        "srkd compare runs/plan --html methods.html",
        "srkd compare runs/* --csv",
        "srkd compare runs/plan --data sets",
        "srkd compare runs/plan --data sets --latex > table.tex",
    ),
    csv=True,
    latex=True,
)
def command(console: Console, options: CompareOptions) -> None:
    """Compare the methods of RUNs, each over its seeds.

    The table has mean and standard deviation of the Y-PSNR on the validation images, as the runs measured it. A plan of
    runs stands for its runs. Runs of another scale, protocol or of other images are refused. With --data all students
    are scored on benchmark sets, as by srkd evaluate, with gains over the baselines; a second call computes nothing.
    """
    if console.wants_latex and options.data is None:
        raise UsageError("--latex is a table of benchmark sets: name them, --data DIR")
    from srkd.api.compare import run_compare

    with console.context() as context:
        comparison = run_compare(options, context)
    if console.wants_latex and comparison.sets is not None:
        console.write_latex(comparison.sets.latex())
    else:
        console.report("compare", comparison, show, rows)


def rows(comparison: Comparison) -> tuple[object, ...]:
    """Each method; on benchmark sets also its gains over baselines."""
    table = comparison.sets
    return comparison.methods if table is None else (*table.rows, *table.gains)


def show(console: Console, comparison: Comparison) -> None:
    """Print the table, then the gains of the best method; on benchmark sets a table for each reference."""
    if comparison.sets is None:
        console.table(comparison.table(f"Scale {comparison.scale}, {comparison.protocol}"))
        lines = comparison.lines()
    else:
        console.result(comparison.sets.shared_line())
        for reference in comparison.sets.references:
            console.table(comparison.sets.table(reference))
        lines = (*comparison.sets.left_out, *comparison.remarks())
    for line in lines:
        console.result(line)
