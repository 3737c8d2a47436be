"""Progress as a plain callable, so that nothing in the ground knows a terminal."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called as progress(title, done, total)."""


Announce: TypeAlias = Callable[[str], None]
"""Receives one line for a person."""


def silent(title: str, done: int, total: int) -> None:
    """The progress of a caller who does not want any."""


def unheard(line: str) -> None:
    """The announcements of a caller who does not want any."""
