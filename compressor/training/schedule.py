"""Learning rate as a function of the step alone. Nothing here imports torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Decay = Literal["constant", "milestones", "cosine"]


@dataclass(frozen=True)
class Schedule:
    """`milestones` multiplies by `factor` at each; `cosine` falls to zero at the end; both after a linear warm-up."""

    steps: int
    rate: float
    decay: Decay = "constant"
    milestones: Sequence[int] = ()
    factor: float = 0.1
    warmup: int = 0

    def at(self, step: int) -> float:
        """Rate of the update made at `step`, counted from 0."""
        if step < self.warmup:
            return self.rate * (step + 1) / self.warmup
        if self.decay == "milestones":
            return self.rate * self.factor ** sum(step >= milestone for milestone in self.milestones)
        if self.decay == "cosine":
            return self.rate * 0.5 * (1 + math.cos(math.pi * (step - self.warmup) / max(1, self.steps - self.warmup)))
        return self.rate

    def rescaled(self, steps: int) -> Schedule:
        """The same shape over another length."""
        ratio = steps / self.steps
        milestones = tuple(round(milestone * ratio) for milestone in self.milestones)
        return Schedule(steps, self.rate, self.decay, milestones, self.factor, round(self.warmup * ratio))
