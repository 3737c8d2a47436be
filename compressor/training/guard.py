"""Checks of a run: bad steps are skipped, dominating terms are flagged, and every term must have a gradient.

A step is skipped when its loss or its gradient norm is not finite, or when its loss is over MAX_RATIO times the average
of good steps (the mean and, from HORIZON on, an exponential one). It updates nothing; the next step uses other images.
After MAX_IN_A_ROW consecutive skipped steps the run ends.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from compressor.base.errors import SrkdError

MAX_RATIO = 20.0
MIN_GOOD_STEPS = 20
HORIZON = 100
MAX_IN_A_ROW = 10

GRADIENT = "gradient norm"
WEIGHTED = "weighted/"


@dataclass(frozen=True)
class SkippedStep:
    """A skipped step: the terms at fault, and the reason."""

    terms: tuple[str, ...]
    why: str
    loss: float
    in_a_row: int


@dataclass
class Guard:
    """The judge of each step; it is part of the state, so that a resumed run skips the same steps."""

    good: int = 0
    average: float = 0.0
    in_a_row: int = 0
    skipped: int = 0

    def judge(self, loss: float, norm: float, numbers: Callable[[], Mapping[str, float]]) -> SkippedStep | None:
        """Return None for a good step and count it; `numbers` (Losses.numbers) is called only for a bad one."""
        if not (math.isfinite(loss) and math.isfinite(norm)):
            terms = non_finite_names(numbers()) or (GRADIENT,)
            why = f"{', '.join(terms)} not finite"
        elif self.good >= MIN_GOOD_STEPS and 0 < MAX_RATIO * self.average < loss:
            weighted = {name: value for name, value in numbers().items() if name.startswith(WEIGHTED)}
            largest = max(weighted, key=lambda name: weighted[name], default="loss")
            bound = f"{MAX_RATIO:g} times the {self.average:.4g} of recent steps"
            terms, why = (largest,), f"loss {loss:.4g}, mostly {largest}, is over {bound}"
        else:
            self.good += 1
            self.in_a_row = 0
            self.average += (loss - self.average) / min(self.good, HORIZON)
            return None
        self.in_a_row += 1
        self.skipped += 1
        return SkippedStep(terms, why, loss, self.in_a_row)


def non_finite_names(numbers: Mapping[str, float]) -> tuple[str, ...]:
    """Return the non-finite names: raw terms, else weighted terms, else the sum."""
    wrong = [name for name, value in numbers.items() if not math.isfinite(value)]
    for prefix in ("raw/", WEIGHTED, ""):
        names = tuple(name for name in wrong if name.startswith(prefix))
        if names:
            return names
    return ()


MAX_BALANCE = 3.0
BALANCE_STEPS = 5000
"""Steps of a stage before the first check: earlier, a recipe may still depend on its teacher."""
BALANCE_ROWS = 10
"""Number of logged steps that are averaged, as a single batch is noisy."""


class Balance:
    """A check of the other terms' weight relative to the pixel loss, from the logged numbers."""

    def __init__(self) -> None:
        self._rows: deque[Mapping[str, float]] = deque(maxlen=BALANCE_ROWS)

    def add(self, step: int, numbers: Mapping[str, float]) -> str | None:
        """Add a row, with `step` counted from the start of the stage; return a warning if the other terms dominate."""
        self._rows.append(numbers)
        if step < BALANCE_STEPS or len(self._rows) < BALANCE_ROWS:
            return None
        others = {name: sum(row.get(name, 0.0) for row in self._rows) for name in numbers if name.startswith(WEIGHTED)}
        # `pixel`, and the same loss of a further input or student, such as `widths_pixel`.
        pixel = sum(others.pop(name) for name in tuple(others) if name.endswith(("/pixel", "_pixel")))
        if pixel <= 0 or sum(others.values()) <= MAX_BALANCE * pixel:
            return None
        largest = max(others, key=lambda name: others[name]).removeprefix(WEIGHTED)
        return (
            f"the terms beside the pixel loss weigh {sum(others.values()) / pixel:.1f} times as much as it, mostly "
            f"{largest}; over {MAX_BALANCE:g} times they may lead the student away from its labels: less with "
            f"--set weights.{largest}=..."
        )


def require_paths(terms: Mapping[str, torch.Tensor], student: nn.Module, opponent_terms: Collection[str] = ()) -> None:
    """Refuse the first term without a gradient to any parameter of the student, and an opponent's term with one.

    Modules that a method trains beside the student do not count: a term that trains only them does not teach the
    student.
    """
    parameters = [parameter for parameter in student.parameters() if parameter.requires_grad]
    for name, term in terms.items():
        if name in opponent_terms:
            if _graph_reaches(term, parameters):
                raise SrkdError(
                    f"the first step: the term {name} trains the student's opponent, and has a gradient path to the "
                    "student: detach the student's image in it"
                )
        elif not _graph_reaches(term, parameters):
            why = "it is computed without gradients" if not term.requires_grad else "its gradient ends elsewhere"
            raise SrkdError(
                f"the first step: the term {name} has no gradient path to the student ({why}): "
                "compute it from step.student(...), without detach, no_grad or reentrant checkpoint, or leave it out"
            )


def _graph_reaches(term: torch.Tensor, parameters: Collection[nn.Parameter]) -> bool:
    """Return True if the autograd graph ends in one of the parameters; only its leaf nodes hold a `variable`."""
    ids = {id(parameter) for parameter in parameters}
    waiting: list[Any] = [term.grad_fn]
    visited = {None}
    while waiting:
        node = waiting.pop()
        if node in visited:
            continue
        if id(getattr(node, "variable", None)) in ids:
            return True
        visited.add(node)
        waiting.extend(following for following, _ in node.next_functions)
    return False
