"""A stage of a run: the network it trains, its terms, schedule and optimiser."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from compressor.base.choices import Decay
from compressor.base.decided import PLAIN_MODE, ExecutionMode
from compressor.models.networks.axes import Segments
from compressor.training.calibration import Blend, Calibrated
from compressor.training.method import Method, term_weights
from compressor.training.optimisers import Optimiser

Role = Literal["student", "teacher", "joint"]
"""The network that a stage trains: the student; a copy of the teacher for the later stages; or a copy of the teacher
with the students inside it."""

WARM_UP_PART = 10
"""A stage after the main one warms up for a tenth of its steps: full ones would shift the colours at first."""


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

    def with_steps(self, steps: int) -> Schedule:
        """Return the schedule of a stage that is shortened to `steps`, with its warm-up and milestones."""
        share = steps / self.steps
        milestones = [round(share * milestone) for milestone in self.milestones]
        return replace(self, steps=steps, milestones=milestones, warmup=round(share * self.warmup))

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

    With `blend` the loss is the sum of the methods' losses, each times its factor; a method's last stage has that of
    the method.
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
    is_later: bool = False
    """Whether it comes after the main one: it starts from an averaged student, and its last student counts."""
    from_main: bool = False
    """Whether that is the student of the main stage, not of the one before."""
    kept: bool = False
    """Whether its averaged student is kept under the stage's name."""

    @property
    def role(self) -> Role:
        if self.tunes_teacher:
            return "teacher"
        return "joint" if any(method.kind == "joint" for method in self.methods) else "student"

    @property
    def segments(self) -> Segments:
        joint = [method for method in self.methods if method.kind == "joint"]
        return joint[0].segments if joint else "each"

    @property
    def term_weights(self) -> dict[str, float | Calibrated]:
        """The weight of each term; some are still to be calibrated."""
        return term_weights(self.methods, self.weights, self.blend)

    @property
    def opponent_terms(self) -> frozenset[str]:
        return frozenset(term for method in self.methods for term in method.opponent_terms)

    @property
    def updates(self) -> int:
        return max((method.updates for method in self.methods), default=1)


def with_other_stages(main: Stage) -> tuple[Stage, ...]:
    """Return the stages that the methods need before `main`, `main` itself, and those that they need after it."""
    earlier, later = list[Stage](), list[Stage]()
    for method in main.methods:
        for before in method.earlier_stages():
            steps = max(1, round(before.share * main.schedule.steps))
            steps = steps if before.most is None else min(steps, before.most)
            stage = replace(
                main,
                name=before.name,
                methods=(before.method,),
                blend=None,
                schedule=Schedule(steps, before.rate or main.schedule.rate),
                tunes_teacher=before.tunes_teacher,
                validate_every=steps,
            )
            earlier.append(stage)
    staying = [method for method in main.methods if method.stays]
    began = sum(stage.schedule.steps for stage in earlier) + main.schedule.steps
    for method in reversed(main.methods):
        for after in reversed(method.later_stages()):
            steps = round(after.share * main.schedule.steps)
            if not 0 < steps < main.schedule.steps - sum(stage.schedule.steps for stage in later):
                continue
            began -= steps
            last = after.method(began, steps)
            blend = main.blend
            if isinstance(blend, Mapping):
                blend = {**blend, last.name: blend.get(method.name, 1.0)}
            stage = replace(
                main,
                name=after.name,
                methods=(last, *staying),
                blend=blend,
                schedule=Schedule(steps, after.rate, "cosine", warmup=steps // WARM_UP_PART),
                is_later=True,
                from_main=after.from_main,
                kept=after.kept,
            )
            later.insert(0, stage)
    if later:
        own_steps = main.schedule.steps - sum(stage.schedule.steps for stage in later)
        main = replace(main, schedule=main.schedule.with_steps(own_steps))
    return (*earlier, main, *later)
