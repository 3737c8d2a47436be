"""The terminal: lines, tables, progress bars, the JSON object, CSV, errors. Nothing else in srkd prints."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import PurePath
from typing import TYPE_CHECKING, Literal, TextIO, TypeVar, cast

from compressor.base.context import Context, Note, Progress, format_duration, no_note, no_progress
from compressor.base.errors import SrkdError, describe_os_error
from compressor.base.machine import machine_facts
from srkd.terminal.tables import Table, csv_text, fact_lines

if TYPE_CHECKING:
    import rich.progress

T = TypeVar("T")

PROGRESS_AFTER_SECONDS = 1.0
"""A job that ends sooner shows no progress bar."""
STATUS_SECONDS_FIRST, STATUS_SECONDS = 5.0, 30.0
"""Without a terminal, a line about long work is printed after the first time, then at intervals that double up to the
second, which keeps long logs short; under -v always after the first time."""


@dataclasses.dataclass(frozen=True)
class Console:
    """The output of one command: results go to stdout, or to stderr if stdout is for JSON, CSV or LaTeX."""

    verbose: bool = False
    quiet: bool = False
    data: str = ""
    """What stdout is for, "json", "csv" or "latex"; empty: results."""
    stream: TextIO | None = None
    """The stream of the data; None: stdout."""

    def say(self, text: str) -> None:
        """Print a line about the work; -q silences it."""
        if not self.quiet:
            _write(text, self._out())

    def result(self, text: str) -> None:
        """Print a line that the user asked for; -q does not silence it."""
        _write(text, self._out())

    def detail(self, text: str) -> None:
        """Print a line under -v only."""
        if self.verbose:
            _write(text, sys.stderr)

    def warn(self, text: str) -> None:
        """Print a warning, under -q too."""
        _write(f"srkd: warning: {text}", sys.stderr)

    def error(self, text: str) -> None:
        _write(f"srkd: {text}", sys.stderr)

    def table(self, table: Table) -> None:
        """Print a table below its title, no wider than the terminal."""
        title = textwrap.wrap(table.title, self.width, subsequent_indent="  ", break_long_words=False)
        _write("\n".join([*title, *table.lines(self.width)]), self._out())

    def facts(self, facts: Sequence[tuple[str, str]]) -> None:
        """Print a line for each name and its value, no wider than the terminal."""
        for line in fact_lines(facts, self.width):
            self.result(line)

    @property
    def width(self) -> int:
        """The characters per line: those of the terminal, or of COLUMNS; 80 in a file."""
        return shutil.get_terminal_size((80, 24)).columns

    @contextmanager
    def context(self) -> Iterator[Context]:
        """Yield the context of a long operation: its notes become lines of this console, its progress bars."""
        if self.quiet:
            yield Context(no_progress, self.say)
        elif sys.stderr.isatty():
            bars = _Bars()
            try:
                yield Context(bars.update, self.say, bars.status)
            finally:
                bars.close()
        else:
            lines = _StatusLines(self.say, STATUS_SECONDS_FIRST if self.verbose else STATUS_SECONDS)
            yield Context(lines.update, self.say, lines.status)

    def report(
        self,
        verb: str,
        result: T,
        show: Callable[[Console, T], None],
        *,
        rows: Callable[[T], Iterable[object]] | None = None,
        latex: Callable[[T], str] | None = None,
    ) -> None:
        """Print the result of a verb: as JSON, its `rows` as CSV, or `latex` if asked for, else what `show` prints."""
        text = ""
        if self.data == "json":
            body = cast("dict[str, object]", json_value(result))
            document = {"schema": f"srkd.{verb}/1", **body, "machine": machine_facts()}
            text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
        elif self.data == "csv" and rows is not None:
            text = csv_text(map(json_value, rows(result)))
        elif self.data == "latex" and latex is not None:
            text = latex(result)
        else:
            show(self, result)
        if text:
            _write(text, self.stream or sys.stdout)

    def _out(self) -> TextIO:
        return sys.stderr if self.data else sys.stdout


@contextmanager
def context_for_python(progress: Progress | Literal[False] | None, announce: Note | None) -> Iterator[Context]:
    """Yield the context of a call from Python: the caller's callbacks, or bars and notes if a person watches.

    All output goes to stderr: stdout belongs to the caller.
    """
    # A notebook's shell has a kernel; IPython in a terminal has none.
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    is_watched = sys.stderr.isatty() or getattr(shell, "kernel", None) is not None
    try:
        if progress is None and is_watched:
            console = Console(data="json")
            with console.context() as context:
                yield context if announce is None else dataclasses.replace(context, note=announce)
        else:
            yield Context(progress or no_progress, announce or no_note)
    except OSError as error:
        raise SrkdError(describe_os_error(error)) from error


def cell(value: float | None, text: str) -> str:
    """The cell of a table: `value` in the format `text`, such as "{:.1f} dB", or "-" for None."""
    return "-" if value is None else text.format(value)


def count_cells(params: int | None, macs: int | None) -> tuple[str, str]:
    """The cells of parameters and of multiply-accumulates in 10⁹."""
    return cell(params, "{:,}"), cell(macs and macs / 1e9, "{:.2f}")


def json_value(value: object) -> object:
    """`value` in types of JSON: dataclasses and models become objects, paths text, infinity and NaN null.

    pydantic would refuse names of files that are no text.
    """
    dump = getattr(value, "model_dump", None)
    if dump is not None:
        return json_value(dump(mode="json"))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: json_value(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): json_value(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_value(item) for item in value]
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def open_closed_streams() -> None:
    """Lead a stream that the caller has closed, which is None in Python, to nowhere. Nothing that is opened later gets
    the number of such a stream: C libraries write to it."""
    if sys.stdout is None or sys.stderr is None:
        while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
            pass
        os.close(descriptor)
        sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


@contextmanager
def stdout_for_data() -> Iterator[TextIO]:
    """Yield the real stdout, while all other output to it, also that of C libraries, goes to stderr."""
    real = sys.stdout
    try:
        descriptor = real.fileno()
    except (OSError, ValueError):
        with redirect_stdout(sys.stderr):
            yield real
        return
    real.flush()
    saved = os.dup(descriptor)
    with os.fdopen(saved, "w", encoding="utf-8", errors="replace") as stream:
        os.dup2(sys.stderr.fileno(), descriptor)
        try:
            yield stream
        finally:
            sys.stdout.flush()
            stream.flush()
            os.dup2(saved, descriptor)


def _write(text: str, stream: TextIO) -> None:
    try:
        print(text, file=stream, flush=True)
    except OSError:
        # The reader has ended or the disk is full. The rest of the buffer must not fail again at exit.
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        raise


class _StatusLines:
    """Lines about the running work from time to time, for output without a terminal."""

    def __init__(self, say: Callable[[str], None], most_seconds: float) -> None:
        self._say, self._most_seconds, self._last = say, most_seconds, time.monotonic()
        self._every_seconds = STATUS_SECONDS_FIRST
        self._position, self._title, self._described = "", "", ""
        self._first = 0.0, 0

    def update(self, title: str, done: int, total: int) -> None:
        now = time.monotonic()
        if title != self._title or done <= self._first[1]:
            self._title, self._first = title, (now, done)
        self._position = f"{title} {done:,}/{total:,}"
        began, before = self._first
        if done > before and title != self._described:
            self._line("", (now - began) / (done - before) * (total - done))

    def status(self, line: str, seconds_left: float) -> None:
        """Work that describes itself has no other lines."""
        self._described = self._title
        self._line(f"{line}, ", seconds_left)

    def _line(self, what: str, seconds_left: float) -> None:
        now = time.monotonic()
        if now - self._last >= self._every_seconds:
            self._last, self._every_seconds = now, min(2 * self._every_seconds, self._most_seconds)
            self._say(f"{self._position}: {what}{format_duration(seconds_left)} left")


class _Bars:
    """A bar for each title, on stderr, once the work has lasted longer than PROGRESS_AFTER_SECONDS."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._screen: rich.progress.Progress | None = None
        self._tasks: dict[str, rich.progress.TaskID] = {}
        self._status = ""

    def status(self, line: str, seconds_left: float) -> None:
        """Show a line behind the bar from its next update on; the bar itself shows the time left."""
        self._status = line

    def update(self, title: str, done: int, total: int) -> None:
        if self._screen is None:
            if time.monotonic() - self._start < PROGRESS_AFTER_SECONDS or done >= total:
                return
            from rich.console import Console as RichConsole
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            self._screen = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[status]}", markup=False),
                console=RichConsole(stderr=True),
                transient=True,
                redirect_stdout=sys.stdout.isatty(),
            )
            self._screen.start()
        if title not in self._tasks:
            self._tasks[title] = self._screen.add_task(title, total=total, status="")
        task = self._tasks[title]
        self._screen.update(task, completed=done, total=total, visible=done < total, status=self._status)

    def close(self) -> None:
        if self._screen is not None:
            self._screen.stop()
