"""`srkd evaluate`: PSNR and SSIM, with the protocol beside every number."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from compressor.inference.open import RUNTIMES
from srkd.console import Console
from srkd.parameters import DEVICE, SETTING
from srkd.verb import verb

if TYPE_CHECKING:
    from compressor.inference.evaluate import Evaluation

EPILOG = """Examples:

\b
  srkd evaluate runs/first edsr.pt --data Set5
  srkd evaluate student.onnx --data benchmarks --self-ensemble --per-image
  srkd evaluate --scale 4 --data Set14 --explain
"""


@verb("evaluate", epilog=EPILOG)
@click.argument("models", metavar="[MODEL]...", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--data", type=click.Path(path_type=Path), help="Folder of HR images, a set with HR/ and LR*X4/, or several sets."
)
@click.option(
    "--lr", type=click.Path(path_type=Path), help="Folder of the LR images of --data; none: its own, or made."
)
@click.option("--scale", type=click.IntRange(1, 8), help="Which scale of a multi-scale file; needed without a MODEL.")
@click.option("--arch-option", "arch_options", type=SETTING, multiple=True, help="What a file does not say.")
@click.option("--border", type=click.IntRange(0), help="Pixels cropped on each side; none: as many as the scale.")
@click.option(
    "--lr-border",
    type=click.Choice(["mirror", "clamp"]),
    default="mirror",
    show_default=True,
    help="Border of the bicubic that makes LR images; clamp for packs made by an older MATLAB.",
)
@click.option(
    "--grey",
    type=click.Choice(["rgb", "raw"]),
    default="rgb",
    show_default=True,
    help="Grey files: replicated to RGB and then Y, or their raw values.",
)
@click.option("--self-ensemble", is_flag=True, help="Mean over the eight symmetries; eight times the work.")
@click.option("--tile", type=click.IntRange(0), help="LR pixels a side; none: by memory, 0: never.")
@click.option("--explain", is_flag=True, help="The same by the conventions that these figures are mistaken for.")
@click.option("--per-image", is_flag=True, help="A row an image as well; JSON always has them.")
@click.option("--device", type=DEVICE, default="cpu", show_default=True, help="Where the models run.")
@click.option("--runtime", type=click.Choice(list(RUNTIMES)), help="Insist on a runtime.")
@click.option(
    "--precision", type=click.Choice(["fp32", "bf16", "fp16"]), help="Of the arithmetic, in torch and OpenVINO."
)
@click.option("--threads", type=click.IntRange(1), help="CPU threads of a model.")
def command(
    console: Console,
    *,
    models: tuple[Path, ...],
    data: Path | None,
    lr: Path | None,
    border: int | None,
    lr_border: Any,
    grey: Any,
    self_ensemble: bool,
    tile: int | None,
    explain: bool,
    per_image: bool,
    arch_options: tuple[tuple[str, Any], ...],
    **opening: Any,
) -> None:
    """Score models on benchmark images, bicubic always beside them.

    MODEL is a checkpoint, a run folder or an exported file. Without --data the embedded photos are used.
    """
    from compressor.images.metrics import Protocol
    from srkd.opening import Opening
    from srkd.scoring import Scoring

    scoring = Scoring(
        models=models,
        data=data,
        lr=lr,
        opening=Opening(arch_options=dict(arch_options), **opening),
        protocol=Protocol(border=border, lr_border=lr_border, grey=grey),
        self_ensemble=self_ensemble,
        tile=tile,
    )
    with console.progress() as progress:
        run = scoring.explain if explain else lambda p, a: (scoring.evaluate(p, a),)
        asked, *neighbours = run(progress, console.say)
    if console.wants_json:
        extra = {"explain": [other.to_dict() for other in neighbours]} if explain else {}
        console.emit("evaluate", {**asked.to_dict(), **extra})
        return
    show(console, asked)
    if per_image:
        show_images(console, asked)
    if neighbours:
        show_neighbours(console, asked, neighbours)


def show(console: Console, evaluation: Evaluation) -> None:
    """A row a model, two columns a set."""
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
    """A row an image, two columns a model."""
    models = list(evaluation.models)
    for name in _set_names(evaluation):
        stems = evaluation.models[models[0]][name].images
        rows = []
        for stem in stems:
            scores = [evaluation.models[model][name].images[stem] for model in models]
            rows.append([stem, *(text for s in scores for text in (f"{s.psnr_y:.3f}", f"{s.ssim_y:.4f}"))])
        columns = ["image", *(f"{model} {figure}" for model in models for figure in ("PSNR-Y", "SSIM-Y"))]
        console.table(columns, rows, title=f"{name}, {_title(evaluation)}")


def show_neighbours(console: Console, asked: Evaluation, neighbours: Sequence[Evaluation]) -> None:
    """The mean PSNR of each model and set by each convention, and what it differs by."""
    sets = _set_names(asked)
    rows = []
    for evaluation in (asked, *neighbours):
        for model, scores in evaluation.models.items():
            cells = [f"{scores[name].psnr_y:.3f}" for name in sets]
            moved = [f"{scores[name].psnr_y - asked.models[model][name].psnr_y:+.3f}" for name in sets]
            cells = [text for pair in zip(cells, moved, strict=True) for text in pair]
            rows.append([str(evaluation.protocol), model, *cells])
    columns = ["protocol", "model", *(text for name in sets for text in (f"{name} PSNR", "differs by"))]
    console.table(columns, rows, title="the same outputs by other conventions: not to be compared with one another")


def _set_names(evaluation: Evaluation) -> list[str]:
    return list(next(iter(evaluation.models.values())))


def _title(evaluation: Evaluation) -> str:
    ensemble = ", self-ensemble" if evaluation.self_ensemble else ""
    return f"x{evaluation.scale}, {evaluation.protocol}{ensemble}"
