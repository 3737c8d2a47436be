"""HTML of a comparison of methods, from the same parts as a report."""

from __future__ import annotations

from collections.abc import Sequence

from srkd.reports import charts
from srkd.reports.comparison import Comparison
from srkd.reports.contents import Contents, Score
from srkd.reports.html import Html, element
from srkd.reports.page import Drawn, score_table, write_page
from srkd.version import __version__


def comparison_parts(comparison: Comparison, runs: Sequence[Contents], drawn: Drawn) -> list[Html]:
    """Return the table of methods, quality against work, and the curves of all runs over one another."""
    methods = [
        Score(method.name, "student", method.params, method.macs, method.mean, method.sd, len(method.seeds))
        for method in comparison.methods
    ]
    references = [score for score in runs[0].scores if score.role in ("teacher", "bicubic")]
    scores = [*references[:-1], *methods, *references[-1:]]
    by_work = charts.against_macs(scores)
    metrics = [rows for run in runs for rows in run.metrics]
    caption = f"Y-PSNR on the validation images ({', '.join(comparison.validation)}), {comparison.protocol}"
    return [
        element(
            "section",
            element("h2", "Methods side by side"),
            score_table(scores, comparison.bicubic, caption),
            *(element("p", line) for line in comparison.lines()),
            None if by_work is None else drawn.place(charts.scatter(by_work)),
            *(drawn.place(chart) for chart in charts.curves(metrics)),
        )
    ]


def comparison_page(comparison: Comparison, runs: Sequence[Contents]) -> str:
    """Return the HTML of a complete page."""
    drawn = Drawn()
    title = f"{len(comparison.methods)} methods at scale {comparison.scale}"
    parts = [element("h1", title), *comparison_parts(comparison, runs, drawn)]
    return write_page(title, parts, drawn.charts, about=f"Made by srkd {__version__}. This file holds all it shows.")
