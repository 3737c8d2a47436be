"""Learning rate as a function of the step alone.

What one stage of a run trains, towards what, and how.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from compressor.models.networks.axes import Segments
from compressor.training.method import Method, Role
from compressor.training.speed import PLAIN_PACE, Pace

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


@dataclass(frozen=True)
class Optimiser:
    """Adam; `clip` bounds the gradient norm (CARN uses 10)."""

    betas: tuple[float, float] = (0.9, 0.99)
    eps: float = 1e-8
    clip: float | None = None


@dataclass(frozen=True)
class Average:
    decay: float = 0.999
    warmup: bool = True


@dataclass(frozen=True)
class Stage:
    """A stage is data: the loop runs one."""

    name: str
    methods: Sequence[Method]
    schedule: Schedule
    optimiser: Optimiser
    average: Average
    pace: Pace = PLAIN_PACE
    trains: Role = "student"
    segments: Segments = "each"
    """Of a student inside the teacher."""
    updates: int = 1
    weights: Mapping[str, float] = field(default_factory=dict)
    """Of terms by name, in place of the methods' own."""
    validate_every: int = 1000
