"""The baselines of a run: specs derived from the run's, with other methods and other first weights.

A baseline is the same student without distillation, from random weights, from a slice of the teacher and, if the recipe
starts from a fit, from the same fit: L1 to the ground truth is the only loss. Beside a recipe that distils, `logits` is
one too, from the recipe's own first weights. All have the recipe's whole schedule, student, seed, images and device.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from compressor.base.choices import BaselineName, Goal, Init
from compressor.base.context import Context
from compressor.base.decided import LabelMargin
from compressor.base.errors import SrkdError, UsageError
from compressor.models.networks.base import Spec
from compressor.teachers.teacher import Teacher
from compressor.training.method import Method, quantisation_of
from recipes.catalogue import FOR_FILMS, PIXEL_ONLY
from recipes.config.reading import load_preset
from recipes.terms.phi import bind_phi
from srkd.record.run_spec import RunSpec
from srkd.runs.images import data_choice, read_images
from srkd.runs.opened import open_device, phi_source, student_shape
from srkd.runs.recipe import OFFSET_RATE, needs_teacher, offsets_of, repeats_published, schedule_settings
from srkd.runs.student import require_start
from srkd.runs.teacher import open_teacher
from srkd.runs.teacher_use import TeacherUse, choose_margin


@dataclass(frozen=True)
class _Base:
    """A run that is compared, and what its spec names."""

    spec: RunSpec
    shape: Spec
    teacher: Teacher | None
    methods: tuple[Method, ...]


def baselines(spec: RunSpec, context: Context) -> dict[str, RunSpec]:
    """The baselines of a run by their names: those that were chosen, or the usual ones that are possible and differ."""
    teacher = None if spec.teacher is None else open_teacher(spec.options.teacher, context)
    methods = bind_phi(spec.preset.build_methods(), phi_source(spec))
    base = _Base(spec, student_shape(spec), teacher, methods)
    names = list(spec.options.run.baselines) or _usual_baselines(base, context)
    for name in names:
        if obstacle := _obstacle(name, base):
            raise UsageError(f"--baselines {name}: {obstacle}")
    if not data_choice(spec.options).has_labels:
        raise UsageError(
            "--with-baseline: without HR images the teacher is the only label, and nothing can be trained without it"
        )
    return {f"{name}-baseline" if name == spec.recipe else name: _baseline(name, base, context) for name in names}


def _usual_baselines(base: _Base, context: Context) -> list[BaselineName]:
    spec, names = base.spec, list[BaselineName](["scratch"])
    if obstacle := _obstacle("inherit", base):
        context.note(f"--with-baseline: without inherit: {obstacle}")
    else:
        names.append("inherit")
    if spec.start.init == "fit":
        names.append("fit")
    if spec.start.init_from is not None:
        names.append("init-from")
    methods = {rule.name for rule in spec.preset.methods}
    if methods <= PIXEL_ONLY:
        own: Mapping[Init, BaselineName] = {"random": "scratch", "inherit": "inherit", "fit": "fit"}
        of_recipe = "init-from" if spec.start.init_from is not None else own[spec.start.init]
        names = list[BaselineName](name for name in names if name != of_recipe)
    elif needs_teacher(base.methods) and methods - {FOR_FILMS} != {"logits"} and quantisation_of(base.methods) is None:
        names.append("logits")
    if not names:
        raise UsageError(
            f"--with-baseline: recipe {spec.options.training.recipe} from these weights is itself the only baseline "
            "there is; leave it out, or name a teacher to cut the student from"
        )
    return names


def _obstacle(name: BaselineName, base: _Base) -> str | None:
    """Why a baseline cannot be trained with this student; None if it can."""
    if name == "init-from" and base.spec.start.init_from is None:
        return "there is no --init-from"
    if name in ("scratch", "init-from"):
        return None
    try:
        require_start(name, base.teacher, base.shape)
    except SrkdError as error:
        return str(error)
    return None


def _baseline(name: BaselineName, base: _Base, context: Context) -> RunSpec:
    """The run's spec with only the methods and, but for logits, the first weights changed."""
    spec, is_logits = base.spec, name == "logits"
    inits: Mapping[BaselineName, Init] = {"scratch": "random", "inherit": "inherit", "fit": "fit"}
    init = inits.get(name, spec.start.init)
    start = spec.start.model_copy(
        update={
            "init": init,
            "select": spec.start.select if init == "inherit" else "leading",
            "init_from": spec.start.init_from if name in ("init-from", "logits") else None,
        }
    )
    recipe = name if name in ("inherit", "logits") else "scratch"
    own = next((method.options for method in spec.preset.methods if method.name == FOR_FILMS), None)
    films = {FOR_FILMS: own} if is_logits and own is not None else {}
    schedule = spec.preset.schedule
    if name == "fit" and not schedule_settings(spec.options) & {"rate", "fit_rate"}:
        # L1 alone needs a lower rate than most methods: with theirs it would end below its best quality.
        share = OFFSET_RATE if offsets_of(base.shape, start, base.teacher) else 1.0
        fit_rate = share * load_preset("scratch").schedule.rate_of(is_fitted=True)
        schedule = schedule.model_copy(update={"fit_rate": fit_rate})
    preset = load_preset(recipe, (), films).model_copy(update={"schedule": schedule})
    labels: Goal = "original"
    if is_logits:
        labels = spec.options.data.labels or spec.goal
    use = TeacherUse(recipe, preset.build_methods(), base.teacher, labels)
    return spec.changed(
        options=replace(spec.options, training=replace(spec.options.training, recipe=recipe, settings=())),
        recipe=recipe,
        preset=preset,
        quantisation=None,
        start=start,
        phi=None,
        teacher_cache=spec.teacher_cache if is_logits else None,
        label_margin=_margin(use, base, context) if is_logits and spec.teacher_cache is None else None,
        data=spec.data.model_copy(update={"labels": "HR" if labels == "original" else "teacher"}),
    )


def _margin(use: TeacherUse, base: _Base, context: Context) -> LabelMargin | None:
    """The run's margin, where the baseline's teacher sees windows too; measured where the run had no use for one."""
    spec, options = base.spec, base.spec.options
    if not use.sees_windows or spec.label_margin is not None:
        return spec.label_margin if use.sees_windows else None
    if options.training.label_margin is None and repeats_published(options.training.recipe):
        options = replace(options, training=replace(options.training, label_margin=0))
    lr_patch = spec.preset.schedule.lr_patch
    data = read_images(data_choice(options), base.shape.scale, lr_patch, context)
    return choose_margin(options, use, data, lr_patch, open_device(spec.device), context)
