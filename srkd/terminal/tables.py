"""Tables as lines of text: columns with wrapped texts if they fit, otherwise a card for each row.

No number or name is cut: a word longer than a line stays whole.
"""

from __future__ import annotations

import csv
import io
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

NARROWEST_TEXT = 16
"""Least width in characters to which a column of text is narrowed, for readability."""
WIDE_GAP, NARROW_GAP = 3, 2
INDENT = "  "


def table_lines(columns: Sequence[str], rows: Sequence[Sequence[str]], width: int, *, repeat: int = 0) -> list[str]:
    """The lines of a table that fits in `width` characters.

    For similar columns (scores on many sets), `repeat` keeps a table that is too wide from becoming cards: it is
    split into several tables, each with the first `repeat` columns.
    """
    cells = [_Column(name, [row[index] for row in rows]) for index, name in enumerate(columns)]
    lines = _fitting(cells, width)
    if lines is not None:
        return lines
    for count in range(len(cells) - 1, repeat, -1) if repeat else ():
        lines = _fitting(cells[:count], width)
        if lines is not None:
            rest = [*range(repeat), *range(count, len(cells))]
            others = [[row[index] for index in rest] for row in rows]
            return [*lines, *table_lines([columns[index] for index in rest], others, width, repeat=repeat)]
    return _cards(columns, rows, width)


def fact_lines(facts: Sequence[tuple[str, str]], width: int) -> list[str]:
    """A line for each name and its value, long values wrapped at words."""
    indent = max((_width(name) for name, _ in facts), default=0) + NARROW_GAP
    lines = []
    for name, value in facts:
        first, *others = _wrap(value, width - indent)
        lines += [(name + " " * (indent - _width(name)) + first).rstrip(), *(" " * indent + line for line in others)]
    return lines


def csv_text(records: Sequence[Mapping[str, object]]) -> str:
    """Records of equal keys as CSV (RFC 4180, lines end in a newline); None is an empty field."""
    text = io.StringIO()
    if records:
        writer = csv.DictWriter(text, list(records[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
    return text.getvalue().rstrip("\n")


@dataclass(frozen=True)
class _Column:
    name: str
    cells: list[str]

    @property
    def is_numeric(self) -> bool:
        """True if the column holds numbers, which are right-aligned and not wrapped."""
        return any(map(_is_number, self.cells))

    @property
    def natural_width(self) -> int:
        return max(map(_width, (self.name, *self.cells)))

    @property
    def narrowest(self) -> int:
        words = [word for text in (self.name, *self.cells) for word in text.split()]
        if self.is_numeric:
            words = [*self.name.split(), *self.cells]
        longest = max(map(_width, words), default=0)
        return longest if self.is_numeric else max(longest, min(self.natural_width, NARROWEST_TEXT))


def _is_number(cell: str) -> bool:
    digits = sum(character.isdigit() for character in cell)
    return bool(cell) and (cell[0].isdigit() or cell[0] in "+-−±") and digits * 3 >= len(cell)


def _fitting(columns: Sequence[_Column], width: int) -> list[str] | None:
    """The lines of a table in columns; None if they do not fit."""
    widths = [column.natural_width for column in columns]
    if sum(widths) + WIDE_GAP * (len(widths) - 1) <= width:
        return _columns(columns, widths, WIDE_GAP)
    narrow = _narrowed(columns, width - NARROW_GAP * (len(columns) - 1))
    return None if narrow is None else _columns(columns, narrow, NARROW_GAP)


def _narrowed(columns: Sequence[_Column], width: int) -> list[int] | None:
    """The widths of columns that share `width`, the widest narrowed first; None if they do not fit."""
    widths, narrowest = [column.natural_width for column in columns], [column.narrowest for column in columns]
    while sum(widths) > width:
        wide = [index for index, column_width in enumerate(widths) if column_width > narrowest[index]]
        if not wide:
            return None
        widths[max(wide, key=lambda index: widths[index])] -= 1
    return widths


def _columns(columns: Sequence[_Column], widths: Sequence[int], gap: int) -> list[str]:
    """The lines of a table whose columns have these widths; rich wraps and aligns the cells."""
    # Imported late, as only tables need it.
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # A gap is a space before a cell, a line of the box that is a space, and if it is wide a space after a cell.
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, gap - 2, 0, 1))
    for column, width in zip(columns, widths, strict=True):
        table.add_column(Text(column.name), justify="right" if column.is_numeric else "left", width=width)
    for cells in zip(*(column.cells for column in columns), strict=True):
        table.add_row(*map(Text, cells))
    width = max(1, sum(widths) + gap * (len(widths) - 1))
    text = io.StringIO()
    # Plain text of this width, whatever the terminal or notebook is.
    console = Console(
        file=text, width=width, color_system=None, force_terminal=False, force_jupyter=False, legacy_windows=False
    )
    console.print(table)
    return [line.rstrip() for line in text.getvalue().splitlines()]


def _cards(columns: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """Each row as a card: its first cell as a heading, and below it the others with their column names."""
    lines = []
    for first, *others in rows:
        lines += _wrap(first, width, indent=INDENT)
        line = ""
        for name, cell in zip(columns[1:], others, strict=True):
            if not cell:
                continue
            figure = f"{name}: {cell}"
            longer = f"{line}; {figure}" if line else f"{INDENT}{figure}"
            if line and _width(longer) > width:
                lines += _wrap(f"{line};", width, indent=INDENT * 2)
                longer = f"{INDENT}{figure}"
            line = longer
        lines += _wrap(line, width, indent=INDENT * 2) if line else []
    return lines


def _wrap(text: str, width: int, *, indent: str = "") -> list[str]:
    return textwrap.wrap(
        text, max(width, 1), subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    ) or [""]


def _width(text: str) -> int:
    """The width of a text in terminal cells; East Asian characters take two."""
    from rich.cells import cell_len  # imported late, as rich is needed only to print

    return cell_len(text)
