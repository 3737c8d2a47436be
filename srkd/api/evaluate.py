"""`srkd evaluate`: scores of models, to the originals and to a teacher, bicubic or at scale 1 the input beside them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from compressor.base.choices import GoalOption
from compressor.base.context import Context, Note
from compressor.base.errors import UsageError
from compressor.data.film_frames import lr_images
from compressor.images.scores import both_goals
from compressor.images.sets import AnySet, ImageSet, LrSet, embedded_pairs, find_lr_set, find_sets, line_about_inputs
from compressor.inference import evaluate as scoring
from compressor.inference.evaluate import EvaluationSettings
from compressor.inference.evaluation import Evaluation, SetScore
from compressor.inference.metric_table import LOOKS, METRICS, worse_measures
from compressor.inference.teacher_check import check_teacher
from compressor.runtimes.reduced import at_scale
from compressor.runtimes.table import RUNTIMES, runtime_of
from compressor.teachers.reduced import load_at_scale
from srkd.options.degradation import degradation_of, protocol_of
from srkd.options.function import public
from srkd.options.models import common_scale, load_by, open_runtime
from srkd.options.shared import Model, originals_and_lr_only, path_of
from srkd.options.values import as_tuple
from srkd.options.verbs import EvaluateOptions


def run_evaluate(options: EvaluateOptions, context: Context) -> Evaluation:
    """Score models by Y-PSNR and SSIM. Bicubic, at scale 1 the input, is always the first; without data the embedded
    photos are used.

    `data` is a folder of HR images, a set with `HR/` and optionally `LR*X{scale}/`, or a folder of several sets. Images
    are compared with the originals and, given a teacher in `against`, with its images. Ctrl-C raises
    `EvaluationInterrupted`, a KeyboardInterrupt with the scores of the finished sets.

        >>> print(srkd.evaluate("edsr.pt", data="photos").models["edsr"]["photos"].psnr_y)
        >>> scores = srkd.evaluate("runs/small", data="photos", against="edsr.pt", metrics=["psnr", "sharpness"])
        >>> print(scores.models["small"]["photos"]["sharpness_teacher"])
    """
    result = by_goal(_score(options, context), options.goal)
    _note_below_bicubic(result, options, context)
    for line in worse_than_lanczos(result):
        context.note(line)
    return result


evaluate = public(EvaluateOptions, EvaluateOptions, run_evaluate, "evaluate")


def by_goal(result: Evaluation, goal: GoalOption) -> Evaluation:
    """The scores with what models are judged by first. auto: the originals if the teacher is nearer than bicubic."""
    if result.teacher is None or len(result.references) < 2:
        return result
    if goal == "auto":
        key, bicubic = METRICS["psnr"].key_to("original"), result.without_network
        gains = [
            sum(differences) / len(differences)
            for name, scores in result.models[result.teacher].items()
            if "psnr" in result.metrics and (differences := _differences(scores, bicubic[name], key))
        ]
        gain = sum(gains) if gains else 1.0
        goal = "original" if gain > 0 else "teacher"
    return replace(result, references=both_goals(goal))


def _differences(scores: SetScore, others: SetScore, key: str) -> list[float]:
    """The differences of two models on the images of a set; a flat image, which bicubic gives exactly, has none."""
    pairs = [(image.figures[key], others.images[name].figures[key]) for name, image in scores.images.items()]
    return [own - other for own, other in pairs if math.isfinite(own) and math.isfinite(other)]


def _score(options: EvaluateOptions, context: Context) -> Evaluation:
    if not options.metrics:
        raise UsageError(f"--metrics: name at least one of {', '.join(METRICS)}")
    groups = (("psnr", *LOOKS) if name == "looks" else (name,) for name in options.metrics)
    metrics = tuple(dict.fromkeys(name for group in groups for name in group))
    for name in metrics:
        METRICS[name].require()
    if options.goal == "teacher" and options.against is None:
        raise UsageError("--goal teacher: name the teacher, --against TEACHER")
    if options.goal == "original" and options.lr_only is not None:
        raise UsageError("--goal original: the images of --lr-only have no originals; leave one of them out")
    models, given = _models(options), options.against
    of_teacher = next((n for n, model in enumerate(models) if given is not None and _is_same(model, given)), None)
    own = replace(options, strength=None)
    runtimes = [open_runtime(model, own if n == of_teacher else options, context) for n, model in enumerate(models)]
    teacher = None if of_teacher is None else runtimes[of_teacher]
    others = [runtime for runtime in runtimes if runtime is not teacher]
    if teacher is not None and others:
        whole, teacher = teacher, at_scale(teacher, common_scale(others, None), context.note)
        runtimes[runtimes.index(whole)] = teacher
    scale = common_scale(runtimes, options.scale)
    degradation = degradation_of(options.degrade, context)
    sets = _sets(options, scale, context.note)
    protocol = protocol_of(options, degradation, sets)
    settings = EvaluationSettings(scale, protocol, options.self_ensemble, options.tile, metrics, degradation)
    if line := line_about_inputs((source for image_set in sets for source in image_set.sources), scale):
        context.note(line)
    return scoring.evaluate(runtimes, sets, settings, context, teacher=teacher)


def _models(options: EvaluateOptions) -> tuple[Model, ...]:
    """The models in the order of their rows: the teacher first, unless it is one of the others as it is."""
    teacher, models = options.against, as_tuple(options.models)
    if teacher is None or (options.strength is None and any(_is_same(model, teacher) for model in models)):
        return models
    return (teacher, *models)


def _is_same(model: Model, other: Model) -> bool:
    if isinstance(model, (str, Path)) and isinstance(other, (str, Path)):
        return Path(model).resolve() == Path(other).resolve()
    return model is other


def _sets(options: EvaluateOptions, scale: int, note: Note) -> tuple[AnySet, ...]:
    lr, (folders, lr_only) = path_of(options.lr_images), originals_and_lr_only(options.data, options.lr_only)
    if lr_only is not None:
        if folders or lr is not None:
            raise UsageError(f"--lr-only {lr_only} takes the place of --data and --lr-images: leave these out")
        return (LrSet(lr_only.resolve().name, lr_images(lr_only, note=note)),)
    if folders:
        (data,) = folders
        without_originals = find_lr_set(data, scale=scale) if lr is None and options.against is not None else None
        return find_sets(data, scale=scale, lr=lr) if without_originals is None else (without_originals,)
    if lr is not None:
        raise UsageError(
            f"an LR folder without its images: give --data beside --lr-images {lr}, or --lr-only and --against"
        )
    note("no --data: scoring on the embedded validation photos")
    return (ImageSet("embedded", embedded_pairs("val")),)


def _note_below_bicubic(result: Evaluation, options: EvaluateOptions, context: Context) -> None:
    """Warn of models below bicubic, and name the option if a setting missing in a teacher's file explains it."""
    reference = result.references[0]
    if reference == "teacher":
        return
    key, against = METRICS["psnr"].key_to(reference), result.name_of(reference)
    plain, bicubic = next(iter(result.models.items()))
    for (label, scores), model in zip(result.networks.items(), _models(options), strict=True):
        below = [
            f"{name} ({score[key]:.2f} dB, {plain} {bicubic[name][key]:.2f})"
            for name, score in scores.items()
            if "psnr" in result.metrics and score[key] < bicubic[name][key] < math.inf
        ]
        if not below:
            continue
        check = None
        if isinstance(model, (str, Path)) and RUNTIMES[runtime_of(Path(model))].opens_as_teacher:
            check = check_teacher(load_by(load_at_scale, model, options), context=context)
        if check is not None and check.is_for_looks:
            context.note(
                f"{label} is farther from the originals than {plain}, as networks for looks are: {', '.join(below)}"
            )
            continue
        context.note(f"warning: {label} is below {plain} {against} on {', '.join(below)}")
        if check is not None and check.advice is not None:
            context.note(f"{label}: {check.advice}")


def worse_than_lanczos(result: Evaluation) -> list[str]:
    """A line for each model and set on which the model's images are farther from the teacher's than Lanczos' are."""
    lines, lanczos = list[str](), result.lanczos
    if lanczos is None:
        return lines
    for label, scores in result.networks.items():
        for name, score in scores.items() if label != result.teacher else ():
            own, plain = (
                {metric: figures[METRICS[metric].key_to("teacher")] for metric in result.metrics}
                for figures in (score, lanczos[name])
            )
            worse = [
                f"{row.title} {row.show(own[row.name])}, lanczos {row.show(plain[row.name])}"
                for row in (METRICS[metric] for metric in worse_measures(own, plain))
            ]
            if worse:
                lines.append(f"warning: {label} is worse than lanczos to the teacher on {name} ({'; '.join(worse)})")
    return lines
