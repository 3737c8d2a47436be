"""Tables of results: printed by rich, or written as LaTeX; and rows of values as CSV."""

from __future__ import annotations

import csv
import io
import json
import re
import textwrap
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

LATEX_ESCAPES = {
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
NARROWEST_TEXT = 16
"""Least width in characters to which a column of text is narrowed, for readability."""


@dataclass(frozen=True)
class Table:
    """Rows of text under headings."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""
    names: int = 1
    """The number of columns at the left that name a row."""
    bold: Collection[tuple[int, int]] = ()
    """The cells that LaTeX prints bold, by row and column."""
    rules: Collection[int] = ()
    """The rows with a rule above them in LaTeX."""

    def lines(self, width: int) -> list[str]:
        """The lines of a table in `width` characters.

        No word is cut. A table that is too wide becomes several, each with the columns that name the rows.
        """
        columns = list(zip(self.headings, *self.rows, strict=True))
        natural = [max(map(_width, column)) for column in columns]
        least = list(map(_least_width, columns))
        count, gap = len(columns), 3 if sum(natural) + 3 * (len(columns) - 1) <= width else 2
        while count > self.names + 1 and sum(least[:count]) + gap * (count - 1) > width:
            count -= 1
        widths = natural[:count]
        while sum(widths) + gap * (count - 1) > width and widths != least[:count]:
            widest = max((i for i in range(count) if widths[i] > least[i]), key=widths.__getitem__)
            widths[widest] -= 1
        lines = self._render(widths, gap)
        if count == len(columns):
            return lines
        kept = [*range(self.names), *range(count, len(columns))]
        rest = [[row[index] for index in kept] for row in (self.headings, *self.rows)]
        return [*lines, *replace(self, headings=rest[0], rows=rest[1:]).lines(width)]

    def latex(self, comments: Sequence[str] = ()) -> str:
        """A plain tabular, which needs no package, below lines of comments."""
        lines = [f"% {' '.join(line.split())}" for line in comments]
        lines += [
            rf"\begin{{tabular}}{{l{'r' * (len(self.headings) - 1)}}}",
            r"\hline",
            _latex_row(self.headings),
            r"\hline",
        ]
        for index, row in enumerate(self.rows):
            lines += [r"\hline"] if index in self.rules else []
            lines.append(_latex_row(row, [column for at, column in self.bold if at == index]))
        return "\n".join([*lines, r"\hline", r"\end{tabular}"])

    def _render(self, widths: Sequence[int], gap: int) -> list[str]:
        # Imported late, as only tables need it.
        from rich.box import SIMPLE_HEAD
        from rich.console import Console
        from rich.table import Table as RichTable
        from rich.text import Text

        # A gap is a space before a cell, a line of the box that is a space, and if there is room a space after a cell.
        table = RichTable(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, gap - 2, 0, 1))
        for index, width in enumerate(widths):
            is_number = any(is_numeric(row[index]) for row in self.rows)
            table.add_column(Text(self.headings[index]), justify="right" if is_number else "left", width=width)
        for row in self.rows:
            table.add_row(*map(Text, row[: len(widths)]))
        text = io.StringIO()
        # Plain text of this width, whatever the terminal or notebook is.
        console = Console(
            file=text,
            width=sum(widths) + gap * len(widths),
            color_system=None,
            force_terminal=False,
            force_jupyter=False,
            legacy_windows=False,
        )
        console.print(table, crop=False)
        return [line.rstrip() for line in text.getvalue().splitlines()]


def _least_width(column: Sequence[str]) -> int:
    """The least width of a column, its heading first, in which no word and no number is cut, and texts are readable."""
    heading, *cells = column
    is_number = any(map(is_numeric, cells))
    words = [*heading.split(), *(cells if is_number else " ".join(cells).split())]
    least = max(map(_width, words), default=0)
    return least if is_number else max(least, min(max(map(_width, column)), NARROWEST_TEXT))


def fact_lines(facts: Sequence[tuple[str, str]], width: int) -> list[str]:
    """A line for each name and its value, long values wrapped at words."""
    indent = max((_width(name) for name, _ in facts), default=0) + 2
    lines = []
    for name, value in facts:
        first, *others = textwrap.wrap(
            value, max(width - indent, 1), break_long_words=False, break_on_hyphens=False
        ) or [""]
        lines += [(name + " " * (indent - _width(name)) + first).rstrip(), *(" " * indent + line for line in others)]
    return lines


def csv_text(rows: Iterable[object]) -> str:
    """JSON objects as CSV (RFC 4180, lines end in a newline), with the keys of nested ones joined by dots."""
    records = [{key: _csv_cell(value) for key, value in leaves("", row)} for row in rows]
    found = dict.fromkeys(key for record in records for key in record)
    # An object that is null in some rows is a group of columns, not another one.
    keys = [key for key in found if not any(other.startswith(f"{key}.") for other in found)]
    text = io.StringIO()
    if records:
        writer = csv.DictWriter(text, keys, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
    return text.getvalue().rstrip("\n")


def _latex_row(cells: Sequence[str], bold: Collection[int] = ()) -> str:
    return " & ".join(_latex_cell(cell, index in bold) for index, cell in enumerate(cells)) + r" \\"


def _latex_cell(cell: str, is_bold: bool) -> str:
    """A cell in which no character means anything else; bold is the first number."""
    first, *others = [latex_text(part) for part in cell.split(" ± ")]
    first = re.sub(r"^[+-][0-9.]+", r"$\g<0>$", first) if is_numeric(cell) else first
    return r" $\pm$ ".join([rf"\textbf{{{first}}}" if is_bold else first, *others])


def latex_text(text: str) -> str:
    """A text without characters that mean something in LaTeX."""
    return "".join(LATEX_ESCAPES.get(character, character) for character in " ".join(text.split()))


def is_numeric(cell: str) -> bool:
    """Whether a cell is a number, perhaps with its unit: such cells are right-aligned and not wrapped."""
    digits = sum(character.isdigit() for character in cell)
    return bool(cell) and (cell[0].isdigit() or cell[0] in "+-−±") and digits * 3 >= len(cell)


def leaves(key: str, value: object) -> Iterator[tuple[str, object]]:
    """The values of nested objects by their path, such as `schedule.rate`."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from leaves(f"{key}.{name}" if key else str(name), item)
    else:
        yield key, value


def _csv_cell(value: object) -> object:
    if not isinstance(value, list):
        return value
    return " ".join(item if isinstance(item, str) else json.dumps(item) for item in value)


def _width(text: str) -> int:
    """The width of a text in terminal cells; East Asian characters take two."""
    from rich.cells import cell_len  # imported late, as rich is needed only to print

    return cell_len(text)
