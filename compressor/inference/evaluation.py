"""The result of an evaluation: scores by model, set and image, with the words and the JSON that they are told in."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any

from compressor.base.errors import SrkdError
from compressor.images.metrics import finite_or_none
from compressor.images.protocol import Protocol
from compressor.images.scores import LANCZOS, set_mean, without_network
from compressor.inference.metric_table import METRICS, Metric, Reference
from compressor.inference.numbers import Numbers


@dataclass(frozen=True)
class ImageScore:
    """The scores of an image by their keys in JSON: PSNR in dB, infinite for equal images; NaN: nothing to measure."""

    figures: Mapping[str, float]

    @property
    def psnr_y(self) -> float:
        """Y-PSNR to the original."""
        return self["psnr_y"]

    @property
    def ssim_y(self) -> float:
        """SSIM on Y to the original."""
        return self["ssim_y"]

    @property
    def psnr_y_teacher(self) -> float:
        """Y-PSNR to the teacher's image."""
        return self["psnr_y_teacher"]

    @property
    def ssim_y_teacher(self) -> float:
        """SSIM on Y to the teacher's image."""
        return self["ssim_y_teacher"]

    def __getitem__(self, key: str) -> float:
        if key not in self.figures:
            raise SrkdError(f"{key} was not measured, only {', '.join(self.figures)}: see against, data and metrics")
        return self.figures[key]

    def to_dict(self) -> dict[str, Any]:
        """Return the scores for JSON: infinite PSNR and NaN become None."""
        return {key: finite_or_none(figure) for key, figure in self.figures.items()}


@dataclass(frozen=True)
class SetScore(ImageScore):
    """The mean scores of one set, and those of each image."""

    name: str
    lr: str
    """The origin of the low-resolution images: "stored" or "made"."""
    images: Mapping[str, ImageScore]

    @classmethod
    def of(cls, images: Mapping[str, ImageScore], name: str, lr: str) -> SetScore:
        keys = next(iter(images.values())).figures
        return cls({key: set_mean([score[key] for score in images.values()]) for key in keys}, name, lr, images)

    def to_dict(self) -> dict[str, Any]:
        """Return the entry of `srkd evaluate --json`."""
        images = {stem: score.to_dict() for stem, score in self.images.items()}
        return {**super().to_dict(), "lr": self.lr, "images": images}


@dataclass(frozen=True)
class Stillness:
    """How much of a film stood still, so that flicker could be measured."""

    pairs: int
    still_pairs: int
    """Those in which something stands still."""
    share: float
    """The part of all their pixels that stands still."""

    @classmethod
    def of(cls, shares: Sequence[float]) -> Stillness:
        return cls(len(shares), sum(share > 0 for share in shares), math.fsum(shares) / len(shares))

    def line(self) -> str:
        """Return what was compared, for a person."""
        if not self.still_pairs:
            return f"nothing stands still in {self.pairs} pairs of frames, so it is not measured"
        return f"{self.still_pairs} of {self.pairs} pairs of frames, where {self.share:.0%} of the picture stands still"


@dataclass(frozen=True)
class Evaluation:
    """Scores by model and set, all by one protocol."""

    protocol: Protocol
    scale: int
    self_ensemble: bool
    models: Mapping[str, Mapping[str, SetScore]]
    numbers: Mapping[str, Numbers]
    """The precision and quantisation of each model, by label."""
    metrics: tuple[str, ...]
    references: tuple[Reference, ...]
    """What the images were compared with; the first is the headline."""
    teacher: str | None
    """The label of the model whose images are the reference `teacher`."""
    still: Mapping[str, Stillness]
    """What stood still for flicker, by set; empty if that was not measured."""

    @property
    def without_network(self) -> Mapping[str, SetScore]:
        """The scores of bicubic, at scale 1 of the input, by set: always the first row."""
        return self.models[without_network(self.scale)]

    @property
    def networks(self) -> Mapping[str, Mapping[str, SetScore]]:
        """The scores of the models, without the rows that need no network."""
        return dict(islice(self.models.items(), 1 if self.lanczos is None else 2, None))

    @property
    def lanczos(self) -> Mapping[str, SetScore] | None:
        """The scores of Lanczos by set; None without a teacher and at scale 1."""
        return None if self.teacher is None or self.scale == 1 else self.models[LANCZOS]

    @property
    def rows(self) -> tuple[Metric, ...]:
        return tuple(METRICS[name] for name in self.metrics)

    @property
    def headline(self) -> tuple[Metric, Reference]:
        """The figure to show where there is room for one: the first metric, to the first reference."""
        return self.rows[0], self.references[0]

    def name_of(self, reference: Reference) -> str:
        """The words for what a figure was measured against."""
        return "to the original" if reference == "original" else f"to the teacher {self.teacher}"

    def line_about(self, name: str) -> str:
        """Return the headline figures of all models on a set, for a person who waits for the next set."""
        metric, reference = self.headline
        key = metric.key_to(reference)
        figures = ", ".join(f"{label} {metric.show(scores[name][key])}" for label, scores in self.models.items())
        return f"{name}: {figures} {metric.unit}".rstrip()

    def __str__(self) -> str:
        """Return one line for the protocol, and one per model and reference with its means over each set."""
        lines = [f"x{self.scale}, {self.protocol}"]
        for reference in self.references:
            end = f", {self.name_of(reference)}" if len(self.references) > 1 or reference == "teacher" else ""
            for model, sets in self.models.items():
                figures = (
                    f", {name} {' '.join(row.tell(score[row.key_to(reference)]) for row in self.rows)}"
                    for name, score in sets.items()
                )
                lines.append(f"{model}{''.join(figures)}{end}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return the entry of `srkd evaluate --json`."""
        return {
            "protocol": str(self.protocol),
            "scale": self.scale,
            "self_ensemble": self.self_ensemble,
            "references": list(self.references),
            "goal": self.references[0],
            "teacher": self.teacher,
            "metrics": {row.key: {"unit": row.unit, "best": row.best} for row in self.rows},
            **({"still": {name: asdict(still) for name, still in self.still.items()}} if self.still else {}),
            "models": {
                model: {
                    "sets": {name: score.to_dict() for name, score in sets.items()},
                    **self.numbers[model].to_dict(),
                }
                for model, sets in self.models.items()
            },
        }


class EvaluationInterrupted(KeyboardInterrupt):
    """Ctrl-C during an evaluation of several sets: `evaluation` holds the finished ones."""

    def __init__(self, evaluation: Evaluation, unfinished: tuple[str, ...]) -> None:
        super().__init__(f"interrupted before {', '.join(unfinished)}")
        self.evaluation, self.unfinished = evaluation, unfinished


def over_teacher(
    models: Mapping[str, Mapping[str, SetScore]], teacher: str, metrics: Sequence[str]
) -> dict[str, dict[str, SetScore]]:
    """Return the scores with figures of frames also in terms of the teacher's; of a set the ratio of the means."""
    rows = [METRICS[name] for name in metrics if METRICS[name].takes == "frames"]

    def with_ratios(score: ImageScore, theirs: ImageScore) -> dict[str, float]:
        ratios = {row.key_to("teacher"): row.over_teacher(score[row.key], theirs[row.key]) for row in rows}
        return {**score.figures, **ratios}

    def of_set(score: SetScore, theirs: SetScore) -> SetScore:
        images = {stem: ImageScore(with_ratios(image, theirs.images[stem])) for stem, image in score.images.items()}
        return replace(score, figures=with_ratios(score, theirs), images=images)

    return {
        label: {name: of_set(score, models[teacher][name]) for name, score in sets.items()}
        for label, sets in models.items()
    }
