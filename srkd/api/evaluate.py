"""`srkd evaluate`: PSNR and SSIM of models, bicubic beside them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from compressor.base.context import Context, Note
from compressor.base.errors import UsageError
from compressor.images.metrics import Protocol
from compressor.images.sets import ImageSet, embedded_pairs, find_sets
from compressor.inference import evaluate as evaluation
from compressor.inference.evaluate import Evaluation, EvaluationSettings
from compressor.inference.teacher_check import check_teacher
from compressor.runtimes.table import RUNTIMES, runtime_of
from srkd.options.function import public
from srkd.options.models import as_tuple, common_scale, load_checkpoint, open_runtime
from srkd.options.shared import path_of
from srkd.options.verbs import EvaluateOptions

R = TypeVar("R")


def run_evaluate(options: EvaluateOptions, context: Context) -> Evaluation:
    """Score models by Y-PSNR and SSIM. Bicubic is always the first; without data the embedded photos are used.

    `data` is a folder of HR images, a set with `HR/` and optionally `LR*X{scale}/`, or a folder of several sets. Ctrl-C
    raises `EvaluationInterrupted`, a KeyboardInterrupt with the scores of the finished sets.

        >>> print(srkd.evaluate("edsr.pt", data="photos").models["edsr"]["photos"].psnr_y)
    """
    result = _score(evaluation.evaluate, options, context)
    _note_below_bicubic(result, options, context.note)
    return result


evaluate = public(EvaluateOptions, EvaluateOptions, run_evaluate, "evaluate")


def run_explain(options: EvaluateOptions, context: Context) -> tuple[Evaluation, ...]:
    """Score as `evaluate` does, and also by the conventions with which these figures are often confused."""
    return _score(evaluation.explain, options, context)


def _score(score: Callable[..., R], options: EvaluateOptions, context: Context) -> R:
    runtimes = [open_runtime(model, options, context) for model in as_tuple(options.models)]
    scale = common_scale(runtimes, options.scale)
    data, lr = path_of(options.data), path_of(options.lr_images)
    if data is not None:
        sets = find_sets(data, scale=scale, lr=lr)
    elif lr is not None:
        raise UsageError(f"an LR folder without its images: give --data beside --lr-images {lr}")
    else:
        context.note("no --data: scoring on the embedded validation photos")
        sets = (ImageSet("embedded", embedded_pairs("val")),)
    protocol = Protocol(border=options.border, lr_border=options.lr_border, grey=options.grey)
    settings = EvaluationSettings(scale, protocol, options.self_ensemble, options.tile)
    return score(runtimes, sets, settings, context)


def _note_below_bicubic(result: Evaluation, options: EvaluateOptions, note: Note) -> None:
    """Warn of models below bicubic, and name the option if a setting missing in a teacher's file explains it."""
    bicubic, *rows = result.models.items()
    for (label, scores), model in zip(rows, as_tuple(options.models), strict=True):
        below = [
            f"{name} ({score.psnr_y:.2f} dB, bicubic {bicubic[1][name].psnr_y:.2f})"
            for name, score in scores.items()
            if score.psnr_y < bicubic[1][name].psnr_y
        ]
        if not below:
            continue
        note(f"warning: {label} is below bicubic on {', '.join(below)}")
        if isinstance(model, (str, Path)) and RUNTIMES[runtime_of(Path(model))].opens_as_teacher:
            advice = check_teacher(load_checkpoint(model, options)).advice
            if advice is not None:
                note(f"{label}: {advice}")
