"""A preset is data: student rule, methods, schedule. Pydantic holds its shape. Nothing here imports torch by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from compressor.base.errors import UsageError
from compressor.training.schedule import Schedule

if TYPE_CHECKING:
    from compressor.models.networks.axes import Segments
    from compressor.training.method import Method, Prelude
    from compressor.training.speed import Asked, ExecutionMode
    from compressor.training.stage import Stage

SOONEST_VALIDATION = 25
"""Steps between validations where the preset leaves them open: a short run validates at its end only."""


Beta = Annotated[float, Field(ge=0, lt=1)]


class Part(BaseModel):
    """A piece of a preset: frozen, and unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class StudentRule(Part):
    """How the student is made where the command line does not say."""

    init: Literal["inherit", "random"] = Field(default="random", description="weights cut from the teacher, or drawn")
    width: float = Field(default=1.0, gt=0, le=1, description="fraction of the teacher's channels")
    depth: float = Field(default=1.0, gt=0, le=1, description="fraction of the teacher's blocks")


class ScheduleRule(Part):
    """Length, batches and rate of a run. `--steps` rescales milestones and warm-up."""

    steps: int = Field(default=25_000, ge=1, description="updates of the student")
    batch: int = Field(default=16, ge=1, description="patches a step, over all processes")
    lr_patch: int = Field(default=48, ge=1, description="side of a patch in LR pixels")
    hr_patch: int | None = Field(
        default=None, ge=1, description="side of a patch in HR pixels, in place of lr_patch: the same at every scale"
    )
    rate: float = Field(default=1e-4, gt=0, description="learning rate")
    decay: Literal["constant", "milestones", "cosine"] = Field(default="constant", description="course of the rate")
    milestones: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        default=(), description="steps at which the rate is multiplied by `factor`"
    )
    factor: float = Field(default=0.1, gt=0, le=1, description="of the rate at each milestone")
    warmup: int = Field(default=0, ge=0, description="steps of linear warm-up")
    betas: tuple[Beta, Beta] = Field(default=(0.9, 0.99), description="of Adam")
    eps: float = Field(default=1e-8, gt=0, description="of Adam")
    clip: float | None = Field(default=None, gt=0, description="bound on the gradient norm")
    ema: float = Field(default=0.999, ge=0, lt=1, description="decay of the average; 0 follows the weights")
    ema_warmup: bool = Field(default=True, description="let the average start fast: min(ema, (1+n)/(10+n))")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto", description="of the student; auto: bf16 where a short measurement finds it faster"
    )
    teacher_precision: Literal["fp32", "bf16"] = Field(default="fp32", description="of the frozen teacher")
    compile: Literal["auto", "on", "off"] = Field(
        default="auto", description="torch.compile; auto: on a GPU, for runs long enough to gain from it"
    )
    validate_every: int = Field(
        default=0, ge=0, description="steps between validations; 0 means a tenth of the run, at least 25"
    )


class MethodRule(Part):
    """A method by name, with its options."""

    name: str = Field(description="of a method; `srkd recipes ls` has those of the recipes")
    options: dict[str, Any] = Field(default_factory=dict, description="what the method can be told")


class Preset(Part):
    """What `srkd compress --recipe NAME` runs."""

    title: str = Field(min_length=1, description="what it is, in a few words")
    source: str = Field(description="where the method and its numbers come from")
    methods: tuple[MethodRule, ...] = Field(min_length=1, description="whose terms are summed by weight")
    weights: dict[str, float] = Field(
        default_factory=dict, description="of terms by name, where methods that share a term disagree, or to change it"
    )
    student: StudentRule = StudentRule()
    schedule: ScheduleRule = ScheduleRule()

    def with_steps(self, steps: int) -> Preset:
        """The same shape over `steps` updates."""
        shape = self.learning_rate().rescaled(steps)
        changed = {"steps": steps, "milestones": tuple(shape.milestones), "warmup": shape.warmup}
        return self.model_copy(update={"schedule": self.schedule.model_copy(update=changed)})

    def at_scale(self, scale: int) -> Preset:
        """The same with the LR patch that belongs to `hr_patch`, where the recipe gives that."""
        rule = self.schedule
        if rule.hr_patch is None:
            return self
        if rule.hr_patch % scale:
            raise UsageError(
                f"schedule.hr_patch={rule.hr_patch} is no multiple of the scale {scale}: "
                f"--set schedule.hr_patch={max(1, rule.hr_patch // scale) * scale}"
            )
        changed = {"lr_patch": rule.hr_patch // scale, "hr_patch": None}
        return self.model_copy(update={"schedule": rule.model_copy(update=changed)})

    def learning_rate(self) -> Schedule:
        rule = self.schedule
        return Schedule(rule.steps, rule.rate, rule.decay, rule.milestones, rule.factor, rule.warmup)

    def build_methods(self) -> tuple[Method, ...]:
        from recipes.options import make_method

        return tuple(make_method(rule.name, rule.options) for rule in self.methods)

    def asked(self) -> Asked:
        """What the preset says about speed; the machine decides the rest."""
        from compressor.training.speed import Asked

        rule = self.schedule
        return Asked(rule.precision, rule.teacher_precision, rule.compile)

    def stages(self, methods: Sequence[Method], pace: ExecutionMode | None = None) -> tuple[Stage, ...]:
        """What the methods want done before, and then the student's own stage, which `steps` counts."""
        main = self.stage(methods, pace)
        return (*(prelude_stage(prelude, main) for method in methods for prelude in method.preludes()), main)

    def stage(self, methods: Sequence[Method], pace: ExecutionMode | None = None) -> Stage:
        """The stage at the pace that was chosen for the machine; without one, plain."""
        from compressor.training.speed import plain_mode
        from compressor.training.stage import Average, Optimiser, Stage

        rule = self.schedule
        joint: list[Segments] = [method.segments for method in methods if method.trains == "joint"]
        segments: Segments = joint[0] if joint else "each"
        return Stage(
            name="distil",
            methods=methods,
            schedule=self.learning_rate(),
            optimiser=Optimiser(rule.betas, rule.eps, rule.clip),
            average=Average(rule.ema, rule.ema_warmup),
            pace=plain_mode(self.asked()) if pace is None else pace,
            trains="joint" if any(method.trains == "joint" for method in methods) else "student",
            segments=segments,
            updates=max((method.updates for method in methods), default=1),
            weights=self.weights,
            validate_every=rule.validate_every or max(SOONEST_VALIDATION, rule.steps // 10),
        )


def prelude_stage(prelude: Prelude, main: Stage) -> Stage:
    """A stage before the main one: its share of the steps, at its own constant rate, validated at its end."""
    steps = max(1, round(prelude.share * main.schedule.steps))
    return replace(
        main,
        name=prelude.name,
        methods=(prelude.method,),
        schedule=Schedule(steps, prelude.rate),
        trains=prelude.trains,
        updates=prelude.method.updates,
        validate_every=steps,
    )
