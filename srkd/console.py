"""The only place that prints: lines, tables, progress, the one JSON object, errors."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from pathlib import PurePath
from typing import TYPE_CHECKING, TextIO

from compressor.base.context import Progress, no_progress

if TYPE_CHECKING:
    import rich.progress

PATIENCE = 1.0
"""Seconds of work before a progress bar appears: shorter jobs stay quiet."""


@dataclasses.dataclass(frozen=True)
class Console:
    """How one command talks: results go to stdout, or to stderr when stdout is kept for JSON."""

    verbose: bool = False
    quiet: bool = False
    json_stream: TextIO | None = None

    @property
    def wants_json(self) -> bool:
        """Whether the command was asked for one JSON object instead of tables."""
        return self.json_stream is not None

    def say(self, text: str) -> None:
        """A line about what is done; no_progress under -q."""
        if not self.quiet:
            _write(text, self._out())

    def result(self, text: str) -> None:
        """A line the user asked for; -q does not silence it."""
        _write(text, self._out())

    def detail(self, text: str) -> None:
        """A line only -v shows."""
        if self.verbose:
            _write(text, sys.stderr)

    def warn(self, text: str) -> None:
        """Something the user should know even under -q."""
        _write(f"srkd: warning: {text}", sys.stderr)

    def error(self, text: str) -> None:
        """The one line that ends a failed command."""
        _write(f"srkd: {text}", sys.stderr)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]], *, title: str = "") -> None:
        """Print rows under headings; columns that hold numbers are set flush right. The title is a line of its own."""
        from rich import box
        from rich.console import Console as RichConsole
        from rich.table import Table

        stream = self._out()
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
        for index, column in enumerate(columns):
            numeric = any(_looks_numeric(row[index]) for row in rows)
            table.add_column(column, justify="right" if numeric else "left", no_wrap=True)
        for row in rows:
            table.add_row(*row)
        # No figure is ever cut: a terminal that is too narrow breaks the line itself.
        rich_console = RichConsole(file=stream, width=10_000, markup=False, highlight=False, emoji=False)
        with rich_console.capture() as capture:
            rich_console.print(table)
        lines = [*([title] if title else []), *(line.rstrip() for line in capture.get().splitlines())]
        _write("\n".join(lines), stream)

    @contextmanager
    def progress(self) -> Iterator[Progress]:
        """Yield a progress callable: bars with an estimate on a terminal, nothing elsewhere."""
        if self.quiet or not sys.stderr.isatty():
            yield no_progress
            return
        bars = _Bars()
        try:
            yield bars.update
        finally:
            bars.close()

    def emit(self, verb: str, payload: object) -> None:
        """Write the command's one JSON object, with its schema and the machine's facts."""
        from compressor.base.machine import facts

        body = plain(payload)
        if not isinstance(body, dict):
            raise TypeError(f"the payload of srkd.{verb} is no object but {type(body).__name__}")
        whole = {"schema": f"srkd.{verb}/1", **body, "machine": facts()}
        stream = self.json_stream or sys.stdout
        _write(json.dumps(whole, indent=2, ensure_ascii=False, allow_nan=False), stream)

    def _out(self) -> TextIO:
        return sys.stderr if self.wants_json else sys.stdout


def plain(value: object) -> object:
    """A value as JSON can hold it: dataclasses become objects, paths text, what is not finite null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


@contextmanager
def stdout_for_json() -> Iterator[TextIO]:
    """Yield the real stdout while everything else written there, by C libraries too, goes to stderr."""
    with ExitStack() as stack:
        try:
            descriptor = sys.stdout.fileno()
        except (OSError, ValueError):
            yield stack.enter_context(_python_stdout_kept())
            return
        sys.stdout.flush()
        kept = os.dup(descriptor)
        stream = stack.enter_context(os.fdopen(kept, "w", encoding="utf-8"))
        os.dup2(sys.stderr.fileno(), descriptor)
        try:
            yield stream
        finally:
            sys.stdout.flush()
            stream.flush()
            os.dup2(kept, descriptor)


@contextmanager
def _python_stdout_kept() -> Iterator[TextIO]:
    real = sys.stdout
    with redirect_stdout(sys.stderr):
        yield real


def _write(text: str, stream: TextIO) -> None:
    try:
        print(text, file=stream, flush=True)
    except OSError:
        # The reader has gone or the disk is full. What is left in the buffer must not fail once more at the end.
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        raise


def _looks_numeric(cell: str) -> bool:
    digits = sum(character.isdigit() for character in cell)
    return bool(cell) and (cell[0].isdigit() or cell[0] in "+-−±") and digits * 3 >= len(cell)


class _Bars:
    """One bar a title, drawn on stderr once the work has lasted longer than PATIENCE."""

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._screen: rich.progress.Progress | None = None
        self._tasks: dict[str, rich.progress.TaskID] = {}

    def update(self, title: str, done: int, total: int) -> None:
        if self._screen is None:
            if time.monotonic() - self._begun < PATIENCE or done >= total:
                return
            self._screen = self._draw()
        if title not in self._tasks:
            self._tasks[title] = self._screen.add_task(title, total=total)
        self._screen.update(self._tasks[title], completed=done, total=total, visible=done < total)

    def close(self) -> None:
        if self._screen is not None:
            self._screen.stop()

    @staticmethod
    def _draw() -> rich.progress.Progress:
        from rich.console import Console as RichConsole
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        screen = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=RichConsole(stderr=True),
            transient=True,
            redirect_stdout=sys.stdout.isatty(),
        )
        screen.start()
        return screen
