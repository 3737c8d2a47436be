"""A table of methods on benchmark sets as plain LaTeX, which needs no package."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from srkd.reports.set_table import Column, SetRow, SetTable

ESCAPES = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    # A row that begins with one of these would be an argument of the line break before it.
    "[": "{[}",
    "*": "{*}",
}
LINE = r"\hline"


def escape(text: str) -> str:
    """The text without characters that mean something in LaTeX."""
    return "".join(ESCAPES.get(character, character) for character in " ".join(text.split()))


def latex_table(table: SetTable) -> str:
    """One tabular: scores by the goal of the runs, the best of all students bold, then gains over baselines."""
    columns = table.columns(table.references[0])
    rows = table.rows_to(table.references[0])
    titles = ["", *(f"{column.title}{f' ({column.metric.unit})' if column.metric.unit else ''}" for column in columns)]
    best = [_best(column, rows) for column in columns]
    gains = [
        [
            escape(f"{gain.method} over {gain.over}"),
            *(_cell(*column.show_gain(gain.sets[column.set][column.key]), signed=True) for column in columns),
        ]
        for gain in table.gains
    ]
    return "\n".join(
        [
            *(f"% {' '.join(line.split())}" for line in _comments(table)),
            rf"\begin{{tabular}}{{l{'r' * len(columns)}}}",
            LINE,
            _row(map(escape, titles)),
            LINE,
            *(_row(_score_cells(row, columns, best)) for row in rows if not row.seeds),
            LINE,
            *(_row(_score_cells(row, columns, best)) for row in rows if row.seeds),
            *([LINE, *map(_row, gains)] if gains else []),
            LINE,
            r"\end{tabular}",
        ]
    )


def _comments(table: SetTable) -> list[str]:
    """The caption: protocol, images, settings, seeds and versions."""
    sets = (f"{name} ({each.images} images, LR {each.lr}, {each.digest[:12]})" for name, each in table.sets.items())
    over = f"mean and sample standard deviation over the seeds {', '.join(map(str, table.seeds))}"
    return [
        f"{table.heading(table.references[0])}; {over}",
        f"images: {', '.join(sets)}",
        table.shared_line(),
        *(f"gains of {gain.method} over {gain.over}: {len(gain.seeds)} pairs of equal seeds" for gain in table.gains),
        f"{table.software}; no package is needed",
    ]


def _best(column: Column, rows: Sequence[SetRow]) -> str | None:
    """The highest mean of the students, as it is shown; None for a single student."""
    means = [row.sets[column.set][column.key].mean for row in rows if row.seeds]
    return column.metric.show(max(means)) if len(means) > 1 else None


def _score_cells(row: SetRow, columns: Sequence[Column], best: Sequence[str | None]) -> list[str]:
    cells = [escape(row.name)]
    for column, highest in zip(columns, best, strict=True):
        mean, sd = column.show(row.sets[column.set][column.key])
        cells.append(_cell(rf"\textbf{{{mean}}}" if row.seeds and mean == highest else mean, sd))
    return cells


def _cell(mean: str, sd: str | None, *, signed: bool = False) -> str:
    return (f"${mean}$" if signed else mean) + ("" if sd is None else rf" $\pm$ {sd}")


def _row(cells: Iterable[str]) -> str:
    return f"{' & '.join(cells)} \\\\"
