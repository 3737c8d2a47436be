"""A stage of a run: the network it trains, its terms, schedule and optimiser."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from compressor.base.choices import Decay
from compressor.models.networks.axes import Segments
from compressor.training.calibration import Blend, Calibrated, term_weights
from compressor.training.method import HasEarlierStages, Method, TrainsJointly, updates_of
from compressor.training.optimisers import Optimiser
from compressor.training.speed import PLAIN_MODE, ExecutionMode

Role = Literal["student", "teacher", "joint"]
"""The network that a stage trains: the student; a copy of the teacher for the later stages; or a copy of the teacher
with the students inside it."""


@dataclass(frozen=True)
class Schedule:
    """The learning rate as a function of the step alone.

    `milestones` multiplies by `factor` at each; `cosine` falls to zero at the end; each follows a linear warm-up.
    """

    steps: int
    rate: float
    decay: Decay = "constant"
    milestones: Sequence[int] = ()
    factor: float = 0.1
    warmup: int = 0

    def at(self, step: int) -> float:
        """Return the rate of the update at `step`, counted from 0."""
        if step < self.warmup:
            return self.rate * (step + 1) / self.warmup
        if self.decay == "milestones":
            return self.rate * self.factor ** sum(step >= milestone for milestone in self.milestones)
        if self.decay == "cosine":
            return self.rate * 0.5 * (1 + math.cos(math.pi * (step - self.warmup) / max(1, self.steps - self.warmup)))
        return self.rate


@dataclass(frozen=True)
class Average:
    """The exponential moving average of the trained weights."""

    decay: float = 0.999
    warmup: bool = True


@dataclass(frozen=True)
class Stage:
    """A stage, which the loop runs. `weights` of terms by name override the methods' own.

    With `blend` the loss is the sum of the methods' losses, each times its factor.
    """

    name: str
    methods: Sequence[Method]
    schedule: Schedule
    optimiser: Optimiser
    average: Average
    mode: ExecutionMode = PLAIN_MODE
    tunes_teacher: bool = False
    weights: Mapping[str, float] = field(default_factory=dict)
    blend: Blend | None = None
    validate_every: int = 1000

    @property
    def role(self) -> Role:
        """The network that this stage trains."""
        if self.tunes_teacher:
            return "teacher"
        return "joint" if any(isinstance(method, TrainsJointly) for method in self.methods) else "student"

    @property
    def segments(self) -> Segments:
        """The cut of concatenations for a student inside the teacher."""
        for method in self.methods:
            if isinstance(method, TrainsJointly):
                return method.segments
        return "each"

    @property
    def term_weights(self) -> dict[str, float | Calibrated]:
        """The weight of each term; some are still to be calibrated."""
        return term_weights(self.methods, self.weights, self.blend)

    @property
    def updates(self) -> int:
        """The number of updates in a step."""
        return max((updates_of(method) for method in self.methods), default=1)


def with_earlier_stages(main: Stage) -> tuple[Stage, ...]:
    """Return the stages that the methods need before `main`, and `main` itself."""
    stages = []
    for method in main.methods:
        for earlier in method.earlier_stages() if isinstance(method, HasEarlierStages) else ():
            steps = max(1, round(earlier.share * main.schedule.steps))
            steps = steps if earlier.most is None else min(steps, earlier.most)
            rate = main.schedule.rate if earlier.rate is None else earlier.rate
            stage = replace(
                main,
                name=earlier.name,
                methods=(earlier.method,),
                blend=None,
                schedule=Schedule(steps, rate),
                tunes_teacher=earlier.tunes_teacher,
                validate_every=steps,
            )
            stages.append(stage)
    return (*stages, main)
