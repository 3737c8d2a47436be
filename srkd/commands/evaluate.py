"""`srkd evaluate`: PSNR and SSIM, with the protocol beside every number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from srkd.console import Console
from srkd.verb import verb
from srkd.verb_options import EvaluateOptions

if TYPE_CHECKING:
    from compressor.inference.evaluate import Evaluation


@verb(
    "evaluate",
    EvaluateOptions,
    examples=(
        "srkd evaluate runs/first edsr.pt --data Set5",
        "srkd evaluate student.onnx --data benchmarks --self-ensemble --per-image",
        "srkd evaluate --scale 4 --data Set14 --explain",
    ),
)
@click.option("--explain", is_flag=True, help="Add the same by the conventions that these figures are mistaken for.")
@click.option("--per-image", is_flag=True, help="Add a row for each image; JSON always has them.")
def command(console: Console, options: EvaluateOptions, *, explain: bool, per_image: bool) -> None:
    """Score models on benchmark images, bicubic always beside them.

    MODEL is a checkpoint, a run folder or an exported file. Without --data the embedded photos are used.
    """
    from srkd.api import run_evaluate, run_explain

    with console.context() as context:
        results = run_explain(options, context) if explain else (run_evaluate(options, context),)
    evaluation, *by_other_conventions = results
    if console.wants_json:
        extra = {"explain": [other.to_dict() for other in by_other_conventions]} if explain else {}
        console.emit("evaluate", {**evaluation.to_dict(), **extra})
        return
    show(console, evaluation)
    if per_image:
        show_images(console, evaluation)
    if explain:
        show_conventions(console, results)


def show(console: Console, evaluation: Evaluation) -> None:
    """Print a row for each model, two columns for each set."""
    sets = _set_names(evaluation)
    columns = ["model", *(f"{name} {figure}" for name in sets for figure in ("PSNR-Y", "SSIM-Y"))]
    rows = []
    for model, scores in evaluation.models.items():
        cells = [text for name in sets for text in (f"{scores[name].psnr_y:.3f}", f"{scores[name].ssim_y:.4f}")]
        rows.append([model, *cells])
    console.table(columns, rows, title=_title(evaluation))
    origins = [f"{name} {evaluation.models['bicubic'][name].lr}" for name in sets]
    console.say(f"LR images: {', '.join(origins)}")


def show_images(console: Console, evaluation: Evaluation) -> None:
    """Print a row for each image, two columns for each model."""
    models = list(evaluation.models)
    for name in _set_names(evaluation):
        stems = evaluation.models[models[0]][name].images
        rows = []
        for stem in stems:
            scores = [evaluation.models[model][name].images[stem] for model in models]
            rows.append([stem, *(text for s in scores for text in (f"{s.psnr_y:.3f}", f"{s.ssim_y:.4f}"))])
        columns = ["image", *(f"{model} {figure}" for model in models for figure in ("PSNR-Y", "SSIM-Y"))]
        console.table(columns, rows, title=f"{name}, {_title(evaluation)}")


def show_conventions(console: Console, results: Sequence[Evaluation]) -> None:
    """Print the mean PSNR of each model and set by each convention, and its difference to the first."""
    first = results[0]
    sets = _set_names(first)
    rows = []
    for evaluation in results:
        for model, scores in evaluation.models.items():
            cells = []
            for name in sets:
                psnr = scores[name].psnr_y
                cells += [f"{psnr:.3f}", f"{psnr - first.models[model][name].psnr_y:+.3f}"]
            rows.append([str(evaluation.protocol), model, *cells])
    columns = ["protocol", "model", *(text for name in sets for text in (f"{name} PSNR", "difference"))]
    console.table(columns, rows, title="the same outputs by other conventions: not to be compared with one another")


def _set_names(evaluation: Evaluation) -> list[str]:
    return list(next(iter(evaluation.models.values())))


def _title(evaluation: Evaluation) -> str:
    ensemble = ", self-ensemble" if evaluation.self_ensemble else ""
    return f"x{evaluation.scale}, {evaluation.protocol}{ensemble}"
