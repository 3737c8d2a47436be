"""A preset is data: student rule, methods, schedule. Pydantic holds its shape; every mistake is told at once."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from compressor.errors import UsageError
from compressor.training.method import Method
from compressor.training.schedule import Schedule
from compressor.training.stage import Average, Optimiser, Stage
from recipes.catalogue import METHODS, make_method, preset_text

SOONEST_VALIDATION = 25
"""Steps between validations where the preset leaves them open: a short run validates at its end only."""


class Part(BaseModel):
    """A piece of a preset: frozen, and unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


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
    rate: float = Field(default=1e-4, gt=0, description="learning rate")
    decay: Literal["constant", "milestones", "cosine"] = "constant"
    milestones: tuple[int, ...] = Field(default=(), description="steps at which the rate is multiplied by `factor`")
    factor: float = Field(default=0.1, gt=0, le=1)
    warmup: int = Field(default=0, ge=0, description="steps of linear warm-up")
    betas: tuple[float, float] = (0.9, 0.99)
    eps: float = Field(default=1e-8, gt=0)
    clip: float | None = Field(default=None, gt=0, description="bound on the gradient norm")
    ema: float = Field(default=0.999, ge=0, lt=1, description="decay of the average; 0 follows the weights")
    ema_warmup: bool = Field(default=True, description="let the average start fast: min(ema, (1+n)/(10+n))")
    precision: Literal["fp32", "bf16"] = Field(default="fp32", description="of the student; the teacher stays fp32")
    validate_every: int = Field(
        default=0, ge=0, description="steps between validations; 0 means a tenth of the run, at least 25"
    )


class MethodRule(Part):
    """A method by name, with its options."""

    name: str
    options: dict[str, Any] = Field(default_factory=dict)


class Preset(Part):
    """What `srkd compress --recipe NAME` runs."""

    title: str
    source: str = Field(description="where the method and its numbers come from")
    methods: tuple[MethodRule, ...] = Field(min_length=1)
    student: StudentRule = StudentRule()
    schedule: ScheduleRule = ScheduleRule()

    def with_steps(self, steps: int) -> Preset:
        """The same shape over `steps` updates."""
        shape = self.learning_rate().rescaled(steps)
        changed = {"steps": steps, "milestones": tuple(shape.milestones), "warmup": shape.warmup}
        return self.model_copy(update={"schedule": self.schedule.model_copy(update=changed)})

    def learning_rate(self) -> Schedule:
        rule = self.schedule
        return Schedule(rule.steps, rule.rate, rule.decay, rule.milestones, rule.factor, rule.warmup)

    def build_methods(self) -> tuple[Method, ...]:
        return tuple(make_method(rule.name, rule.options) for rule in self.methods)

    def stage(self, methods: Sequence[Method]) -> Stage:
        rule = self.schedule
        return Stage(
            name="distil",
            methods=methods,
            schedule=self.learning_rate(),
            optimiser=Optimiser(rule.betas, rule.eps, rule.clip),
            average=Average(rule.ema, rule.ema_warmup),
            precision=rule.precision,
            validate_every=rule.validate_every or max(SOONEST_VALIDATION, rule.steps // 10),
        )


def load_preset(name: str, settings: Sequence[str] = ()) -> Preset:
    """The preset called `name` with `key=value` settings on top."""
    values = parse_yaml(preset_text(name), f"preset {name}")
    for setting in settings:
        _apply(values, setting)
    return check(values, f"recipe {name}")


def parse_yaml(text: str, where: str) -> dict[str, Any]:
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"{where} is not YAML: {error}") from error
    if not isinstance(values, dict):
        raise UsageError(f"{where} is not a mapping of keys to values")
    return values


def check(values: Mapping[str, Any], where: str) -> Preset:
    """A valid preset, or one line with every mistake: key path, value, what was expected."""
    try:
        preset = Preset.model_validate(values)
    except ValidationError as error:
        raise UsageError(f"{where}: " + "; ".join(_told(detail) for detail in error.errors())) from error
    for rule in preset.methods:
        make_method(rule.name, rule.options)
    return preset


def _told(detail: Any) -> str:
    path = ".".join(str(piece) for piece in detail["loc"])
    if detail["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(detail["loc"][-1]), _keys(), n=1)
        return f"unknown key {path}" + (f", did you mean {near[0]}?" if near else "")
    return f"{path}={detail['input']!r}: {detail['msg'][0].lower()}{detail['msg'][1:]}"


def _keys() -> list[str]:
    parts: tuple[type[BaseModel], ...] = (Preset, StudentRule, ScheduleRule, MethodRule)
    return [key for part in parts for key in part.model_fields]


def _apply(values: dict[str, Any], setting: str) -> None:
    """Set `schedule.rate=1e-3`; a bare key that is an option of the recipe's methods goes there (`kappa=0.5`)."""
    key, equals, text = setting.partition("=")
    if not equals or not key:
        raise UsageError(f"--set {setting!r} is not of the form key=value")
    value = _value(text)
    if "." not in key and _set_method_option(values, key, value):
        return
    place = values
    *parents, last = key.split(".")
    for parent in parents:
        place = place.setdefault(parent, {})
        if not isinstance(place, dict):
            raise UsageError(f"--set {setting!r}: {parent} holds no keys")
    place[last] = value


def _set_method_option(values: Mapping[str, Any], key: str, value: Any) -> bool:
    found = False
    for rule in values.get("methods", []):
        if key in METHODS[rule["name"]].options():
            rule.setdefault("options", {})[key] = value
            found = True
    return found


def _value(text: str) -> Any:
    """YAML's reading of a value, but 1e-3 is a number."""
    try:
        return float(text) if "e" in text.lower() else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError):
        return text
