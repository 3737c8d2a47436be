"""`srkd evaluate`: scores of models; every table says by which protocol, and compared with what."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from compressor.inference.metric_table import DEFAULT_METRICS, METRICS
from srkd.cli.verb import verb
from srkd.options.verbs import EvaluateOptions
from srkd.terminal.console import Console
from srkd.terminal.tables import Table

if TYPE_CHECKING:
    from compressor.inference.evaluation import Evaluation, ImageScore
    from compressor.inference.metric_table import Reference


@verb(
    "evaluate",
    EvaluateOptions,
    examples=(
        "srkd evaluate runs/first edsr.pt --data Set5",
        "srkd evaluate student.onnx --data sets --self-ensemble --per-image",
        "srkd evaluate runs/first --against teacher.pt --data Set5 --metrics psnr,ssim,sharpness,spectrum",
        "srkd evaluate runs/first --against teacher.pt --lr-only frames",
    ),
    csv=True,
)
@click.option("--per-image", is_flag=True, help="Add a row for each image; JSON always has them.")
def command(console: Console, options: EvaluateOptions, *, per_image: bool) -> None:
    """Score models on benchmark images, and bicubic beside them.

    MODEL is a checkpoint, a run folder or an exported file. At scale 1 the input stands for bicubic. Without --data the
    embedded photos are used. With --against the images are also compared with those of a teacher.
    """
    from compressor.inference.evaluation import EvaluationInterrupted
    from srkd.api.evaluate import run_evaluate

    interrupted: EvaluationInterrupted | None = None
    with console.context() as context:
        try:
            result = run_evaluate(options, context)
        except EvaluationInterrupted as error:
            interrupted, result = error, error.evaluation
    unfinished = {} if interrupted is None else {"unfinished": interrupted.unfinished}
    console.report(
        "evaluate",
        {**result.to_dict(), **unfinished},
        lambda console, _: show(console, result, per_image=per_image),
        rows=lambda _: rows(result, per_image=per_image),
    )
    if interrupted is not None:
        console.warn(f"not finished: {', '.join(interrupted.unfinished)}")
        raise interrupted


def show(console: Console, evaluation: Evaluation, *, per_image: bool) -> None:
    """Print the table of all models and sets for each reference, then the tables that the options add."""
    from compressor.inference.numbers import lines_about

    bicubic = evaluation.without_network
    for reference in evaluation.references:
        show_scores(console, "model", evaluation.models, evaluation, reference)
    unusual = [row for row in evaluation.rows if row.name not in DEFAULT_METRICS]
    if unusual:
        console.say(f"best: {', '.join(f'{row.title} {row.best}' for row in unusual)}")
    console.say(f"LR images: {', '.join(f'{name} {score.lr}' for name, score in bicubic.items())}")
    flicker = METRICS["flicker"]
    for name, still in evaluation.still.items():
        levels = {model: sets[name][flicker.key] for model, sets in evaluation.models.items()}
        figures = ", ".join(f"{model} {flicker.show(level)}" for model, level in levels.items() if level == level)
        of_models = f"; mean change in grey levels: {figures}" if figures else ""
        console.say(f"flicker on {name}: {still.line()}{of_models}")
    for line in lines_about(evaluation.numbers):
        console.result(line)
    for name in bicubic if per_image else ():
        images = {
            image: {model: scores[name].images[image] for model, scores in evaluation.models.items()}
            for image in bicubic[name].images
        }
        for reference in evaluation.references:
            show_scores(console, "image", images, evaluation, reference, f"{name}, ")


def rows(evaluation: Evaluation, *, per_image: bool) -> list[dict[str, object]]:
    return [
        {
            "protocol": str(evaluation.protocol),
            "self_ensemble": evaluation.self_ensemble,
            "scale": evaluation.scale,
            "teacher": evaluation.teacher,
            "model": model,
            "precision": evaluation.numbers[model].precision,
            "set": name,
            "image": image,
            **each.figures,
        }
        for model, sets in evaluation.models.items()
        for name, score in sets.items()
        for image, each in {"": score, **(score.images if per_image else {})}.items()
    ]


def show_scores(
    console: Console,
    heading: str,
    rows: Mapping[str, Mapping[str, ImageScore]],
    evaluation: Evaluation,
    reference: Reference,
    of: str = "",
) -> None:
    """Print a row for each name, with a column for each metric of each of its scores, all to one reference."""
    ensemble = ", self-ensemble" if evaluation.self_ensemble else ""
    title = f"{of}x{evaluation.scale}, {evaluation.protocol}{ensemble}, {evaluation.name_of(reference)}"
    columns = [f"{name} {row.title}" for name in next(iter(rows.values())) for row in evaluation.rows]
    lines = [
        [name, *(row.show(score[row.key_to(reference)]) for score in scores.values() for row in evaluation.rows)]
        for name, scores in rows.items()
    ]
    console.table(Table([heading, *columns], lines, title))
