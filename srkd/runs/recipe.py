"""The recipe of a run: its preset for these options, its methods for this batch, and the φ that they share."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from compressor.base.context import Context, Note, no_note
from compressor.base.errors import SrkdError
from compressor.degradation.names import OF_FILMS
from compressor.images.suffixes import is_film
from compressor.models.networks.base import Spec
from compressor.models.networks.registry import linear_plan
from compressor.teachers.teacher import Teacher
from compressor.training.method import Method
from recipes.catalogue import FOR_FILMS, PIXEL_ONLY, RECIPES, teacher_needs
from recipes.composition import refusals
from recipes.config.by_class import is_class
from recipes.config.options import make_method
from recipes.config.preset import SHORT_RUN_STEPS, Preset
from recipes.config.reading import is_recipe_file, load_preset, recipe_label
from recipes.terms.phi import PhiSource, find_phi, lacks_vgg19
from srkd.options.compress import CompressOptions
from srkd.options.shared import originals_and_lr_only, path_of
from srkd.record.run_spec import StudentStart
from srkd.runs.student import is_solved_across

EMBEDDED = "the embedded teacher"

RATE_SETTINGS = ("rate", "fit_rate", "decay", "milestones", "factor")
"""Keys of a schedule that decide the learning rate; if the user sets one, srkd does not change the rate."""


USUAL = "logits"
"""The recipe for teachers that are not trained for looks."""
OFFSET_RATE = 0.1
"""Rate of a solved student with own gates (SPAN), of whichever kind its teacher is, or with activations on a stream of
another kind (CARN), in rates of the recipe: a step of all weights behind such an offset moves the whole image.

SPAN 48x6 of EDSR gains 0.13 dB in 200 steps of SOAP at 5e-5 and at 2e-4; at 3e-4 it first falls by 0.3 dB, at 1e-3 by
1.7 dB. CARN of 32 channels gains 0.06 dB in 200 steps at 8e-5, and is 1.0 dB lower after as many at 3e-4.
"""


def load_recipe(options: CompressOptions, note: Note = no_note) -> Preset:
    """The recipe's preset with `--set` and `--steps` applied; a shortened recipe gets a suitable rate."""
    more = methods_for_films(options, note)
    preset = load_preset(options.training.recipe, options.training.recipe_settings, more)
    for rule in preset.methods if is_recipe_file(options.training.recipe) else ():
        if is_class(rule.name):
            note(f"recipe: it runs the code of {rule.name}")
    keys = schedule_settings(options)
    if "rate" in keys and "fit_rate" not in keys:
        preset = preset.with_schedule(fit_rate=None)  # the user's rate is for this student, also if it is fitted
    if options.training.steps is None:
        return preset
    scaled, before = preset.with_steps(options.training.steps), preset.schedule
    if given := {name: getattr(before, name) for name in ("milestones", "warmup") if name in keys}:
        scaled = scaled.with_schedule(**given)  # the user's are for this number of steps
    is_shortened = options.training.steps < SHORT_RUN_STEPS <= before.steps and before.decay == "milestones"
    if not is_shortened or repeats_published(options.training.recipe) or keys.intersection(RATE_SETTINGS):
        return scaled
    short = scaled.for_short_run()
    note(
        f"--steps {options.training.steps}: a short run, so the rate falls from {short.schedule.rate:g} along a "
        f"cosine, not from {before.rate:g} at milestones (--set schedule.decay=milestones keeps those)"
    )
    return short


def methods_for_films(options: CompressOptions, note: Note) -> dict[str, dict[str, float]]:
    """The method that `--calm` adds to the recipe, or the images do: frames of a film, or degraded to look like some.

    By itself it is not added to published runs, to the pixel loss alone, and where it does not fit the recipe.
    """
    training, data = options.training, options.data
    if training.calm is not None:
        own = {rule.name for rule in load_preset(training.recipe).methods}
        return {FOR_FILMS: {"weight": training.calm}} if training.calm or FOR_FILMS in own else {}
    _, alone = originals_and_lr_only(data.data, data.lr_only)
    if data.degrade.partition(",")[0] in OF_FILMS:
        reason = f"--degrade {data.degrade} makes frames of a film"
    elif alone is not None and is_film(alone):
        reason = f"{alone.name} is a film"
    else:
        return {}
    if repeats_published(training.recipe):
        return {}
    own = {rule.name for rule in load_preset(training.recipe).methods}
    if own <= PIXEL_ONLY or FOR_FILMS in own:
        return {}
    try:
        load_preset(training.recipe, training.recipe_settings, {FOR_FILMS: {}})
    except SrkdError as error:
        try:
            methods = load_preset(training.recipe, training.recipe_settings).build_methods()
        except SrkdError:
            raise error from None  # the settings are wrong with it and without it
        if not (lines := refusals([*methods, make_method(FOR_FILMS, {})])):
            raise
        note(f"{FOR_FILMS} is left out: {lines[0]}")
        return {}
    note(
        f"{FOR_FILMS}: {reason}, so the student also learns to give one image for one content under other noise "
        "(--calm 0: not)"
    )
    return {FOR_FILMS: {}}


def with_pace_of_start(
    preset: Preset, spec: Spec, start: StudentStart, teacher: Teacher | None, options: CompressOptions, note: Note
) -> Preset:
    """The preset with SOAP for a solved start that Adam would throw away, at a rate that keeps it.

    Plain 32x4 of EDSR falls from 30.18 to 29.42 dB in 10 steps of Adam at 4e-4 and is at 30.54 after 1,500; with SOAP
    at 1e-3 it is there after 250, and at 30.70 after 1,500.
    """
    offsets, is_across = offsets_of(spec, start, teacher), is_solved_across(spec, start, teacher)
    if start.init != "fit" or not (offsets or is_across) or repeats_published(options.training.recipe):
        return preset
    keys = schedule_settings(options)
    if preset.schedule.optimiser != "soap" and "optimiser" not in keys:
        preset = preset.with_schedule(optimiser="soap")
        note("optimiser: SOAP, as Adam's first steps would throw away such a start")
    if offsets and not {"rate", "fit_rate"} & keys:
        rate = OFFSET_RATE * preset.schedule.rate_of(is_fitted=True)
        preset = preset.with_schedule(fit_rate=rate)
        note(f"rate: {rate:g}, {OFFSET_RATE:g} of the recipe's: {offsets}")
    return preset


def offsets_of(spec: Spec, start: StudentStart, teacher: Teacher | None) -> str | None:
    """What the offsets of a solved student are for, which open its gates or lift its stream; None without any.

    Such a student trains at `OFFSET_RATE`.
    """
    plan = linear_plan(spec)
    if start.init != "fit" or plan is None:
        return None
    if any(layer.opens for layer in plan.layers):
        return "the student's outputs gate themselves"
    is_across = is_solved_across(spec, start, teacher)
    return "activations are on the student's stream" if is_across and plan.lifts_stream else None


def schedule_settings(options: CompressOptions) -> set[str]:
    paths = [setting.partition("=")[0].split(".") for setting in options.training.recipe_settings]
    return {path[1] for path in paths if path[0] == "schedule" and len(path) > 1}


def repeats_published(recipe: str) -> bool:
    """Whether a recipe, by its name, keeps to a paper or its code; such a recipe is not adapted."""
    return recipe_label(recipe).endswith(("-paper", "-code"))


def needs_teacher(methods: Sequence[Method]) -> bool:
    """Whether the methods need a teacher; also the labels may be its images."""
    return any(teacher_needs(method) != "nothing" for method in methods)


def tunes_teacher(method: Method) -> bool:
    """Whether the method trains a copy of the teacher that teaches."""
    return any(stage.tunes_teacher for stage in method.earlier_stages())


def trains_teacher(method: Method) -> bool:
    """Whether the run trains its teacher on patches, before the student or with it."""
    return method.kind == "joint" or tunes_teacher(method)


def fit_batch(preset: Preset, note: Note) -> tuple[Method, ...]:
    """The preset's methods with their weights for its batch; a note says which, unless the preset gives the weight."""
    fitted = []
    for method in preset.build_methods():
        suited, text = method.fit_batch(preset.schedule.batch)
        changed = {term for term, weight in suited.weights.items() if method.weights[term] != weight}
        if text is not None and not changed <= preset.weights.keys():
            note(text)
        fitted.append(suited)
    return tuple(fitted)


def recipes_for_outputs() -> tuple[str, ...]:
    """The recipes that need at most outputs of a teacher; one that does not load, or lacks its VGG-19, is left out."""
    names = []
    for name in sorted(RECIPES):
        with suppress(SrkdError):
            preset = load_preset(name)
            methods = preset.build_methods()
            needs_weights = any(teacher_needs(method) == "network" for method in methods)
            if not needs_weights and not preset.student.init_required and not lacks_vgg19(methods):
                names.append(name)
    return tuple(names)


def choose_phi(preset: Preset, options: CompressOptions, context: Context) -> PhiSource | None:
    """Φ, found or downloaded, and announce it; None for a recipe without."""
    weights = path_of(options.training.phi_weights)
    phi = find_phi(preset.build_methods(), weights, progress=context.progress)
    if phi is None:
        return None
    phi = phi.with_owner(EMBEDDED) if options.teacher.teacher is None else phi
    context.note(f"phi: {phi.how}")
    return phi
