"""The guard of a step: what is not finite, or explodes, changes nothing.

A step is skipped when

- its loss or its gradient norm is not finite, or
- its loss is over FACTOR times the average of recent good steps, once ENOUGH good steps have been seen. The average is
  the mean of the good steps so far and, from HORIZON on, an exponential one of that length; skipped steps never enter
  it, so that an explosion cannot raise its own bound. Where the average is not positive this rule rests.

Skipped means: no update of weights, of Adam's moments, or of the average of the weights; the step's number goes on,
so that the next step sees other images. After IN_A_ROW skipped steps the run ends.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

FACTOR = 20.0
ENOUGH = 20
HORIZON = 100
IN_A_ROW = 10

GRADIENT = "gradient norm"


@dataclass(frozen=True)
class Skipped:
    """A step that changed nothing: the terms at fault, and why in words."""

    terms: tuple[str, ...]
    why: str
    loss: float
    in_a_row: int


@dataclass
class Guard:
    """What must be remembered from step to step; part of the state, so that a resumed run skips the same steps."""

    good: int = 0
    average: float = 0.0
    in_a_row: int = 0
    skipped: int = 0

    def judge(self, loss: float, norm: float, numbers: Callable[[], Mapping[str, float]]) -> Skipped | None:
        """None for a good step, which then counts; `numbers` (Losses.numbers) is asked only for a bad one."""
        found = self._fault(loss, norm, numbers)
        if found is None:
            self.good += 1
            self.in_a_row = 0
            self.average += (loss - self.average) / min(self.good, HORIZON)
            return None
        self.in_a_row += 1
        self.skipped += 1
        return Skipped(*found, loss, self.in_a_row)

    @property
    def gives_up(self) -> bool:
        return self.in_a_row >= IN_A_ROW

    def _fault(
        self, loss: float, norm: float, numbers: Callable[[], Mapping[str, float]]
    ) -> tuple[tuple[str, ...], str] | None:
        if not (math.isfinite(loss) and math.isfinite(norm)):
            names = not_finite(numbers()) or (GRADIENT,)
            return names, f"{', '.join(names)} not finite"
        if self.good >= ENOUGH and 0 < FACTOR * self.average < loss:
            largest = _largest_term(numbers())
            told = f"loss {loss:.4g}, mostly {largest}, is over {FACTOR:g} times the {self.average:.4g} of recent steps"
            return (largest,), told
        return None

    def state_dict(self) -> dict[str, int | float]:
        return asdict(self)

    def load_state_dict(self, state: Mapping[str, int | float]) -> None:
        self.good, self.average = int(state["good"]), float(state["average"])
        self.in_a_row, self.skipped = int(state["in_a_row"]), int(state["skipped"])


def not_finite(numbers: Mapping[str, float]) -> tuple[str, ...]:
    """The names at fault: a term as it is, else what its weight made of it, else the sum."""
    wrong = [name for name, value in numbers.items() if not math.isfinite(value)]
    for prefix in ("raw/", "weighted/", ""):
        found = tuple(name for name in wrong if name.startswith(prefix))
        if found:
            return found
    return ()


def _largest_term(numbers: Mapping[str, float]) -> str:
    weighted = {name: value for name, value in numbers.items() if name.startswith("weighted/")}
    return max(weighted, key=lambda name: weighted[name], default="loss")
