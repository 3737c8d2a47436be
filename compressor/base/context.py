"""The context of a long operation: its progress, its notes and the processes it runs in, passed as one object."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar, cast

from compressor.base.processes import Processes

ItemT = TypeVar("ItemT")
ReadT = TypeVar("ReadT")

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called as progress(title, done, total)."""

Note: TypeAlias = Callable[[str], None]
"""Receives one line for a person."""

Status: TypeAlias = Callable[[str, float], None]
"""Called as status(line, seconds_left); each line replaces the previous one."""


def no_progress(title: str, done: int, total: int) -> None:
    """Report no progress."""


def no_note(line: str) -> None:
    """Drop the line."""


@dataclass(frozen=True)
class Context:
    """The callbacks and processes of an operation. Only the leading process calls `progress` and `note`."""

    progress: Progress = no_progress
    note: Note = no_note
    status: Status | None = None
    """Receives loss and speed of the running step; None: they are not reported."""
    processes: Processes = field(default_factory=Processes)
    kept: dict[tuple[object, ...], Any] | None = field(default_factory=dict, repr=False, compare=False)
    """What was read for this operation, by what was asked for; None: nothing is kept."""

    def once(self, *key: object, read: Callable[[], ReadT]) -> ReadT:
        """The value of `read`, called once for a key. Another value must hold an object whose `id` is in the key."""
        if self.kept is None:
            return read()
        if key not in self.kept:
            self.kept[key] = read()
        return cast(ReadT, self.kept[key])

    def each(self, title: str, items: Collection[ItemT]) -> Iterator[ItemT]:
        """Yield the items, and report how many of them are done."""
        for done, item in enumerate(items):
            self.progress(title, done, len(items))
            yield item
        self.progress(title, len(items), len(items))


QUIET = Context(kept=None)
"""The context of one process that reports nothing; for what needs no interruption. It never ends, and keeps nothing."""


def format_duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
