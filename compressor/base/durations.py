"""Durations as a person plans with them."""

from __future__ import annotations

LONG_SECONDS, SHORT_SECONDS = 600.0, 300.0
"""For a run longer than the first its estimate also names a number of steps that takes about the second."""


def format_duration(seconds: float) -> str:
    """Return seconds, minutes or hours, whichever a person plans with."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def describe_duration(seconds: float, steps: int, where: str) -> str:
    """Return a duration and, for a long one, a number of steps that takes minutes."""
    line = f"about {format_duration(seconds)} {where}"
    fewer = round_down(int(steps * SHORT_SECONDS / seconds)) if seconds > LONG_SECONDS else 0
    return line + (f"; with --steps {fewer} about {format_duration(seconds * fewer / steps)}" if fewer > 0 else "")


def round_down(count: int) -> int:
    """Return the next lower of 1, 2, 5, 10, 20, 50 and so on; 0 for 0."""
    numbers = (digit * 10**power for power in range(12, -1, -1) for digit in (5, 2, 1))
    return next((number for number in numbers if number <= count), 0)
