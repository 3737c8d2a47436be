"""Whether what a recipe adds to the pixel loss outweighs it by far, seen in the numbers that are logged anyway."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

FACTOR = 3.0
AFTER = 5000
"""Steps of a stage: earlier, a recipe may still lean on its teacher."""
ROWS = 10
"""Logged steps whose mean is judged, since one batch says little."""
WEIGHTED = "weighted/"


class Balance:
    """Of one run, row by row."""

    def __init__(self) -> None:
        self._rows: deque[dict[str, float]] = deque(maxlen=ROWS)
        self._last = 0

    def see(self, step: int, numbers: Mapping[str, float]) -> str | None:
        """Take a row, `step` counted from the stage's beginning; what to tell where the other terms weigh too much."""
        if step <= self._last:
            self._rows.clear()
        self._last = step
        self._rows.append({name: value for name, value in numbers.items() if name.startswith(WEIGHTED)})
        if step < AFTER or len(self._rows) < ROWS:
            return None
        sums = {name.removeprefix(WEIGHTED): sum(row.get(name, 0.0) for row in self._rows) for name in self._rows[-1]}
        pixel = sum(value for name, value in sums.items() if is_pixel(name))
        others = {name: value for name, value in sums.items() if not is_pixel(name)}
        if pixel <= 0 or sum(others.values()) <= FACTOR * pixel:
            return None
        largest = max(others, key=lambda name: others[name])
        return (
            f"the terms beside the pixel loss weigh {sum(others.values()) / pixel:.1f} times as much as it, mostly "
            f"{largest}; over {FACTOR:g} times they may lead the student away from its labels: less with "
            f"--set weights.{largest}=..."
        )


def is_pixel(term: str) -> bool:
    """`pixel`, and what methods call the same loss of a further input or student: `widths_pixel`."""
    return term == "pixel" or term.endswith("_pixel")
