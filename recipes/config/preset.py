"""A preset is data: student rule, methods, schedule. Only its methods and stages import torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidatorFunctionWrapHandler, WrapValidator
from pydantic_core import PydanticCustomError

from compressor.base.choices import CompileOption, Decay, Init, OptimiserName, PrecisionOption, Select
from compressor.base.decided import ExecutionMode, SpeedOptions, plain_mode
from compressor.base.errors import UsageError

if TYPE_CHECKING:
    from compressor.models.networks.base import Spec
    from compressor.training.method import Method
    from compressor.training.stage import Stage

MIN_VALIDATE_EVERY = 25
"""The fewest steps between validations unless the preset sets them: a short run is validated only at its end."""

SHORT_RUN_STEPS = 5_000
"""A recipe shortened by `--steps` to fewer steps uses the rate of a short run."""
SHORT_RUN_RATE = 8e-4
"""[choice] The highest rate at which joint training (CSD) was stable in runs of this length."""

Beta = Annotated[float, Field(ge=0, lt=1)]
Factor = Annotated[float, Field(gt=0)]


def _one_error(blend: Any, check: ValidatorFunctionWrapHandler) -> Any:
    """Return the checked value; one error in place of one for each type that it may have."""
    try:
        return check(blend)
    except ValidationError as error:
        text = "a number above 0, or such a number for each method: {a: 0.3, b: 0.7}"
        raise PydanticCustomError("blend", "{text}", {"text": text}) from error


class PresetPart(BaseModel):
    """A part of a preset: frozen, and unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class PublishedStudent(PresetPart):
    """The student that a paper or its code trains for one teacher."""

    teacher: dict[str, str | int] = Field(description="kind and sizes of the teacher: {arch: edsr, width: 256}")
    student: str = Field(description="the student, as --student takes it")
    start_scale: int | None = Field(default=None, description="scale of the student from which it starts there")


class StudentRule(PresetPart):
    """The rule for building the student; the command line wins over it."""

    init: Init = Field(default="random", description="weights solved for, cut from the teacher, or random")
    init_required: bool = Field(
        default=False, description="refuse a student that cannot start so, instead of training it from random weights"
    )
    width: float = Field(default=1.0, gt=0, le=1, description="fraction of the teacher's channels")
    depth: float = Field(default=1.0, gt=0, le=1, description="fraction of the teacher's blocks")
    select: Select = Field(
        default="leading",
        description="what a narrower student inherits; principal: the leading units of a teacher that cannot be turned",
    )
    published: tuple[PublishedStudent, ...] = Field(
        default=(), description="published students by their teachers, the first that fits; others: width and depth"
    )

    def published_for(self, teacher: Spec) -> PublishedStudent | None:
        sizes = teacher.to_dict()
        return next((entry for entry in self.published if entry.teacher.items() <= sizes.items()), None)


class ScheduleRule(PresetPart):
    """Length, batches and learning rate of a run. `--steps` rescales milestones and warm-up.

    A recipe with milestones that `--steps` shortens to fewer than 5,000 gets a higher rate that falls along a cosine,
    unless `--set` gives the rate, the decay or the milestones.
    """

    steps: int = Field(default=25_000, ge=1, description="updates of the student")
    batch: int = Field(default=16, ge=1, description="patches per step, over all processes")
    lr_patch: int = Field(default=48, ge=1, description="side of a patch in LR pixels")
    hr_patch: int | None = Field(
        default=None, ge=1, description="side of a patch in HR pixels, instead of lr_patch: the same at every scale"
    )
    crop_candidates: int = Field(
        default=1,
        ge=1,
        le=64,
        description="positions drawn for each patch, of which the most textured is trained on; 1: any",
    )
    rate: float = Field(default=1e-4, gt=0, description="learning rate")
    fit_rate: float | None = Field(
        default=None,
        gt=0,
        description="learning rate of a student that is solved for, or a slice of a turned teacher: a higher one "
        "throws that start away; none: `rate`",
    )
    decay: Decay = Field(default="constant", description="how the rate changes")
    milestones: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        default=(), description="steps at which the rate is multiplied by `factor`"
    )
    factor: float = Field(default=0.1, gt=0, le=1, description="multiplies the rate at each milestone")
    warmup: int = Field(default=0, ge=0, description="steps of linear warm-up")
    optimiser: OptimiserName = Field(
        default="adam", description="adam, or soap: Adam in bases of each weight's own, which needs fewer steps"
    )
    betas: tuple[Beta, Beta] = Field(default=(0.9, 0.99), description="betas of the optimiser")
    eps: float = Field(default=1e-8, gt=0, description="epsilon of the optimiser")
    clip: float | None = Field(default=None, gt=0, description="largest gradient norm; larger ones are scaled down")
    ema: float = Field(default=0.999, ge=0, lt=1, description="decay of the averaged weights; 0 copies the weights")
    ema_warmup: bool = Field(default=True, description="let the average start fast: min(ema, (1+n)/(10+n))")
    precision: PrecisionOption = Field(
        default="auto",
        description="precision of the student; auto: bf16 where the processor computes it natively, fp32 for short "
        "runs",
    )
    teacher_precision: PrecisionOption = Field(
        default="auto", description="precision of the frozen teacher; auto: the student's, for srkd's own networks"
    )
    compile: CompileOption = Field(
        default="auto", description="torch.compile; auto: on a GPU, for runs long enough to gain from it"
    )
    validate_every: int = Field(
        default=0, ge=0, description="steps between validations; 0: a tenth of the run, at least 25"
    )

    def rate_of(self, *, is_fitted: bool) -> float:
        """Return the learning rate of a student by its start."""
        return self.fit_rate if is_fitted and self.fit_rate is not None else self.rate


class MethodRule(PresetPart):
    """A method by name, with its options."""

    name: str = Field(description="name of a method (`srkd recipes ls`), or ./mine.py:CLASS")
    options: dict[str, Any] = Field(default_factory=dict, description="options of the method")


class Preset(PresetPart):
    """A recipe, as `srkd compress --recipe NAME` runs it."""

    title: str = Field(min_length=1, description="what it is, in a few words")
    source: str = Field(description="where the method and its numbers come from")
    methods: tuple[MethodRule, ...] = Field(min_length=1, description="methods; their terms are summed by weight")
    weights: dict[str, float] = Field(
        default_factory=dict,
        description="weights of terms by name: to change one, or where methods that share a term disagree",
    )
    blend: Annotated[Factor | dict[str, Factor] | None, WrapValidator(_one_error)] = Field(
        default=None,
        description="factor of the whole loss of each method, or of each by name; a shared term then has the sum of "
        "its weights in the methods, each times its factor; none: methods must agree on the weights of shared terms",
    )
    student: StudentRule = Field(default=StudentRule(), description="how the student is built")
    schedule: ScheduleRule = Field(default=ScheduleRule(), description="length, batches and learning rate of the run")

    def with_schedule(self, **changes: Any) -> Preset:
        """Return the preset with some fields of its schedule replaced."""
        given = {name: getattr(self.schedule, name) for name in self.schedule.model_fields_set}
        schedule = ScheduleRule.model_validate({**given, **changes})
        return self.model_copy(update={"schedule": schedule})

    def with_steps(self, steps: int) -> Preset:
        """Return the preset with its schedule rescaled to `steps` updates."""
        rule = self.schedule
        ratio = steps / rule.steps
        milestones = tuple(round(milestone * ratio) for milestone in rule.milestones)
        return self.with_schedule(steps=steps, milestones=milestones, warmup=round(rule.warmup * ratio))

    def for_short_run(self) -> Preset:
        """Return the preset with the rate of a short run: high, and falling along a cosine to zero.

        Milestones suit runs in which the student has almost converged before the first one. Rescaled to a few hundred
        steps they would end the training too early.
        """
        return self.with_schedule(decay="cosine", milestones=(), rate=max(self.schedule.rate, SHORT_RUN_RATE))

    def at_scale(self, scale: int) -> Preset:
        """Return the preset with `hr_patch`, if it has one, converted to `lr_patch` for a scale."""
        rule = self.schedule
        if rule.hr_patch is None:
            return self
        if rule.hr_patch % scale:
            raise UsageError(
                f"schedule.hr_patch={rule.hr_patch} is not a multiple of the scale {scale}: "
                f"--set schedule.hr_patch={max(1, rule.hr_patch // scale) * scale}"
            )
        return self.with_schedule(lr_patch=rule.hr_patch // scale, hr_patch=None)

    def build_methods(self) -> tuple[Method, ...]:
        from recipes.config.options import make_method

        return tuple(make_method(rule.name, rule.options) for rule in self.methods)

    def speed_options(self) -> SpeedOptions:
        """Return the preset's speed settings; the machine decides the open ones."""
        rule = self.schedule
        return SpeedOptions(rule.precision, rule.teacher_precision, rule.compile)

    def stages(
        self, methods: Sequence[Method], mode: ExecutionMode | None = None, *, is_fitted: bool = False
    ) -> tuple[Stage, ...]:
        """Return the student's own stage, with those that methods need before it, and those that they take from it."""
        from compressor.training.stage import with_other_stages

        return with_other_stages(self.stage(methods, mode, is_fitted=is_fitted))

    def stage(self, methods: Sequence[Method], mode: ExecutionMode | None = None, *, is_fitted: bool = False) -> Stage:
        """Return the student's own stage, in the execution mode of the machine, or the plain mode.

        A fitted student uses `fit_rate`, if that is set.
        """
        from compressor.training.optimisers import Optimiser
        from compressor.training.stage import Average, Schedule, Stage

        rule = self.schedule
        rate = rule.rate_of(is_fitted=is_fitted)
        return Stage(
            name="distil",
            methods=methods,
            schedule=Schedule(rule.steps, rate, rule.decay, rule.milestones, rule.factor, rule.warmup),
            optimiser=Optimiser(rule.optimiser, rule.betas, rule.eps, rule.clip),
            average=Average(rule.ema, rule.ema_warmup),
            mode=plain_mode(self.speed_options()) if mode is None else mode,
            weights=self.weights,
            blend=self.blend,
            validate_every=rule.validate_every or max(MIN_VALIDATE_EVERY, rule.steps // 10),
        )
