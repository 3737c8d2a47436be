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
    kept: dict[tuple[object, ...], Any] = field(default_factory=dict, repr=False, compare=False)

    def once(self, *key: object, read: Callable[[], ReadT]) -> ReadT:
        """The value of `read`, called once for a key; it holds what the key has the `id` of. QUIET keeps none."""
        kept = {} if self is QUIET else self.kept
        if key not in kept:
            kept[key] = read()
        return cast(ReadT, kept[key])

    def each(self, title: str, items: Collection[ItemT]) -> Iterator[ItemT]:
        """Yield the items, and report how many of them are done."""
        for done, item in enumerate(items):
            self.progress(title, done, len(items))
            yield item
        self.progress(title, len(items), len(items))


QUIET = Context()
"""The context of one process that reports nothing; only for operations that need no interruption."""
