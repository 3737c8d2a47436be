"""Durations as text for people."""

from __future__ import annotations

LONG_SECONDS, SHORT_SECONDS = 600.0, 300.0
"""The estimate of a run longer than LONG_SECONDS also suggests a number of steps that takes about SHORT_SECONDS."""


def format_duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def describe_duration(seconds: float, steps: int, where: str) -> str:
    """Return a duration as text; for a long one also the largest round number of steps that takes about 5 minutes."""
    line = f"about {format_duration(seconds)} {where}"
    fewer = round_down(int(steps * SHORT_SECONDS / seconds)) if seconds > LONG_SECONDS else 0
    return line + (f"; with --steps {fewer} about {format_duration(seconds * fewer / steps)}" if fewer > 0 else "")


def round_down(count: int) -> int:
    """Return the largest of 1, 2, 5, 10, 20, 50 and so on that is at most `count`; 0 for 0."""
    numbers = (digit * 10**power for power in range(12, -1, -1) for digit in (5, 2, 1))
    return next((number for number in numbers if number <= count), 0)
