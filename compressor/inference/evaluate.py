"""Scores of models on benchmark sets. Each image is decoded once and run once per model; bicubic is always included, at
scale 1 the input.

Images are compared with the originals, with the images of a teacher, or with both; by flicker with those of the frame
before.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from compressor.base.context import QUIET, Context
from compressor.base.errors import SrkdError, UsageError
from compressor.degradation.chain import Degradation
from compressor.degradation.noise import add_gaussian
from compressor.degradation.steps import Draws
from compressor.images.files import grey_of, image_size, read_rgb_u8, read_rgb_u8_and_grey
from compressor.images.flicker import still_pixels
from compressor.images.metrics import PEAK, ImageTooSmall, finite_or_none, luma, to_u8
from compressor.images.protocol import Protocol
from compressor.images.resize import downscale_u8, mod_crop
from compressor.images.scores import EQUAL_DB, LANCZOS, without_network
from compressor.images.sets import AnySet, ImagePair, LrImage, LrSet
from compressor.inference.background import OneBehind, read_ahead
from compressor.inference.metric_table import DEFAULT_METRICS, METRICS, Measure, Metric, Reference
from compressor.inference.numbers import Numbers, numbers_of
from compressor.inference.open import unique_label
from compressor.inference.super_resolve import Bicubic, Lanczos, super_resolve
from compressor.runtimes.base import Runtime

OVERLAPPED_PIXELS = 2**23
"""Images are read and scored while the network runs, in about 1 GB, if their outputs have up to this size (3840x2160);
larger ones are processed alone."""

PHOTO_NOISE = 2.0
"""Standard deviation in grey levels of the two draws of noise that make two frames of a photo."""


@dataclass(frozen=True)
class EvaluationSettings:
    """The settings that all models share. A `tile` of None tiles only where that changes no figure."""

    scale: int
    protocol: Protocol = field(default_factory=Protocol)
    self_ensemble: bool = False
    tile: int | None = None
    metrics: tuple[str, ...] = DEFAULT_METRICS
    """Names of METRICS."""
    degradation: Degradation | None = None
    """What the LR images suffer: they are made from the originals, stored ones are degraded if there are no others."""


@dataclass(frozen=True)
class ImageScore:
    """The scores of one image by their keys in JSON; PSNR in dB, infinite for equal images; NaN where there was nothing
    to measure.
    """

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

    def to_dict(self) -> dict[str, Any]:
        """Return the entry of `srkd evaluate --json`."""
        images = {stem: score.to_dict() for stem, score in self.images.items()}
        return {**super().to_dict(), "lr": self.lr, "images": images}


@dataclass(frozen=True)
class Stillness:
    """What of a set stood still, so that flicker could be measured."""

    pairs: int
    """Pairs of frames, or photos that were made two frames."""
    still_pairs: int
    """Those in which something stands still."""
    share: float
    """The part of all their pixels that stands still."""
    noise: float | None
    """Standard deviation in grey levels of the noise that made two frames of a photo; None: frames of a film."""

    def line(self) -> str:
        """Return what was compared, for a person."""
        if self.noise is not None:
            return f"each LR image twice, with noise of {self.noise:g} grey levels, as two frames that stand still"
        if not self.still_pairs:
            return f"nothing stands still in {self.pairs} pairs of frames, so it is not measured"
        return f"{self.still_pairs} of {self.pairs} pairs of frames, where {self.share:.0%} of the picture stands still"


@dataclass(frozen=True)
class Evaluation:
    """Scores by model and set, all by one protocol; with channel "rgb" the `*_y` fields are of that channel."""

    protocol: Protocol
    scale: int
    self_ensemble: bool
    models: Mapping[str, Mapping[str, SetScore]]
    numbers: Mapping[str, Numbers] = field(default_factory=dict)
    """The precision and quantisation of each model, by label."""
    metrics: tuple[str, ...] = DEFAULT_METRICS
    references: tuple[Reference, ...] = ("original",)
    """What the images were compared with; the first is the headline."""
    teacher: str | None = None
    """The label of the model whose images are the reference `teacher`."""
    still: Mapping[str, Stillness] = field(default_factory=dict)
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
    def headline(self) -> tuple[Metric, Reference]:
        """The figure to show where there is room for one: the first metric, to the first reference."""
        return METRICS[self.metrics[0]], self.references[0]

    def name_of(self, reference: Reference) -> str:
        """The words for what a figure was measured against."""
        return "to the original" if reference == "original" else f"to the teacher {self.teacher}"

    def __str__(self) -> str:
        """Return one line for the protocol, and one per model and reference with its means over each set."""
        metrics, lines = [METRICS[name] for name in self.metrics], [f"x{self.scale}, {self.protocol}"]
        for reference in self.references:
            end = f", {self.name_of(reference)}" if len(self.references) > 1 or reference == "teacher" else ""
            for model, sets in self.models.items():
                figures = (
                    f", {name} {' '.join(_with_unit(row, score[row.key_to(reference)]) for row in metrics)}"
                    for name, score in sets.items()
                )
                lines.append(f"{model}{''.join(figures)}{end}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return the entry of `srkd evaluate --json`."""
        rows = [METRICS[name] for name in self.metrics]
        return {
            "protocol": str(self.protocol),
            "scale": self.scale,
            "self_ensemble": self.self_ensemble,
            "references": list(self.references),
            "goal": self.references[0],
            "teacher": self.teacher,
            "metrics": {row.key: {"unit": row.unit, "best": row.best} for row in rows},
            **({"still": {name: asdict(still) for name, still in self.still.items()}} if self.still else {}),
            "models": {
                model: {
                    "sets": {name: score.to_dict() for name, score in sets.items()},
                    **(self.numbers[model].to_dict() if model in self.numbers else {}),
                }
                for model, sets in self.models.items()
            },
        }


class EvaluationInterrupted(KeyboardInterrupt):
    """Ctrl-C during an evaluation of several sets: `evaluations` holds the finished ones."""

    def __init__(self, evaluations: tuple[Evaluation, ...], unfinished: tuple[str, ...]) -> None:
        super().__init__(f"interrupted before {', '.join(unfinished)}")
        self.evaluations, self.unfinished = evaluations, unfinished


def evaluate(
    models: Sequence[Runtime],
    sets: Sequence[AnySet],
    settings: EvaluationSettings,
    context: Context = QUIET,
    *,
    teacher: Runtime | None = None,
) -> Evaluation:
    """Return the scores of models on sets by the protocol of the settings. Stored LR images are used where a set has
    them, otherwise they are made. The first row is always `bicubic`, at scale 1 `input`, without the self-ensemble.
    Beside a teacher the second one is `lanczos`. With several sets each is noted when it is finished, and Ctrl-C raises
    `EvaluationInterrupted` with the finished ones. While a network runs, the next image is read and the last output
    is scored.

    All images are also compared with those of `teacher`, one of the models; sets of LR images alone need it.
    """
    return _evaluate(models, sets, settings, [settings.protocol], context, teacher)[0]


def explain(
    models: Sequence[Runtime],
    sets: Sequence[AnySet],
    settings: EvaluationSettings,
    context: Context = QUIET,
    *,
    teacher: Runtime | None = None,
) -> tuple[Evaluation, ...]:
    """Return the result of `evaluate`, then those of protocols it is often confused with: PSNR over RGB, no border
    cropped, LR made by Pillow's bicubic, grey files scored on their raw values. Each differs from the first in one
    field.
    """
    base = settings.protocol.at(settings.scale)
    variants = [
        replace(base, channel="rgb" if base.channel == "y" else "y"),
        replace(base, border=0 if base.border else settings.scale),
        *([] if settings.degradation else [replace(base, bicubic="pil" if base.bicubic == "matlab" else "matlab")]),
        replace(base, grey="raw" if base.grey == "rgb" else "rgb"),
    ]
    return _evaluate(models, sets, settings, [base, *variants], context, teacher)


def make_lr(hr_u8: Tensor, scale: int, protocol: Protocol) -> Tensor:
    """Return the low-resolution image of a cropped (3,H,W) image, by the protocol's bicubic."""
    if protocol.bicubic == "matlab":
        return downscale_u8(hr_u8, scale, border=protocol.lr_border)
    height, width = hr_u8.shape[-2] // scale, hr_u8.shape[-1] // scale
    small = Image.fromarray(hr_u8.permute(1, 2, 0).numpy()).resize((width, height), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(small)).permute(2, 0, 1).contiguous()


def _evaluate(
    models: Sequence[Runtime],
    sets: Sequence[AnySet],
    settings: EvaluationSettings,
    protocols: Sequence[Protocol],
    context: Context,
    teacher: Runtime | None,
) -> tuple[Evaluation, ...]:
    scale = settings.scale
    protocols = [protocol.at(scale) for protocol in protocols]
    table = _Table(
        _by_label(models, scale, with_lanczos=teacher is not None and scale > 1), settings, protocols, teacher
    )
    pixels = _check_sets(sets, scale, protocols, table.measures, has_teacher=teacher is not None)
    sources = [source for image_set in sets for source in image_set.sources]
    read = partial(_read_picture, settings=settings, protocols=protocols)
    done, finished_pixels, total, start = 0, 0, len(sources), time.monotonic()

    def is_overlapped(source: ImagePair | LrImage) -> bool:
        return pixels[source.path] <= OVERLAPPED_PIXELS

    with OneBehind() as scorer, read_ahead(sources, read, is_overlapped) as pictures:
        for number, image_set in enumerate(sets):
            try:
                for source, reading in islice(pictures, len(image_set.sources)):
                    context.progress("scored", done, total)
                    if done and context.status is not None:
                        rest = sum(pixels[other.path] for other in sources[done:]) / finished_pixels
                        context.status(f"{image_set.name}: {source.stem}", (time.monotonic() - start) * rest)
                    table.run_models(image_set.name, source, reading.result(), scorer, overlapped=is_overlapped(source))
                    done, finished_pixels = done + 1, finished_pixels + pixels[source.path]
                scorer.finish()
            except KeyboardInterrupt as error:
                if number == 0:
                    raise
                unfinished = tuple(other.name for other in sets[number:])
                raise EvaluationInterrupted(table.evaluations(sets[:number]), unfinished) from error
            if len(sets) > 1:
                context.note(_set_line(table.evaluations([image_set])[0], image_set.name))
    context.progress("scored", done, total)
    return table.evaluations(sets)


@dataclass(frozen=True)
class _Frames:
    """Two LR images (1,3,h,w) of the same content, and where they stand still (h,w)."""

    first: Tensor
    second: Tensor
    still: Tensor
    noise: float | None


@dataclass(frozen=True)
class _Input:
    """An LR image (1,3,h,w), the protocols that share it, and two frames for flicker."""

    lr: Tensor
    protocols: tuple[Protocol, ...]
    frames: _Frames | None


@dataclass(frozen=True)
class _Picture:
    """An original (3,H,W) cropped to the scale, if there is one, and each LR image."""

    hr_u8: Tensor | None
    grey_file: bool
    inputs: tuple[_Input, ...]


@dataclass(frozen=True)
class _Table:
    """The scores of all models, by protocol, model, set and image."""

    rows: Mapping[str, Runtime]
    settings: EvaluationSettings
    protocols: Sequence[Protocol]
    teacher: Runtime | None
    scores: dict[tuple[Protocol, str, str], dict[str, ImageScore]] = field(default_factory=lambda: defaultdict(dict))
    still: dict[tuple[Protocol, str], list[tuple[float, float | None]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    """The part of each image that stands still, and the noise of its frames, by protocol and set."""

    @cached_property
    def measures(self) -> Mapping[str, tuple[Metric, Measure]]:
        """The selected metrics with their functions."""
        return {name: (METRICS[name], METRICS[name].load()) for name in self.settings.metrics}

    def run_models(
        self, image_set: str, source: ImagePair | LrImage, picture: _Picture, scorer: OneBehind, *, overlapped: bool
    ) -> None:
        """Run every model and score its outputs: during the next run if `overlapped`, else before it."""
        rows = sorted(self.rows.items(), key=lambda row: row[1] is not self.teacher)  # the teacher's image comes first
        for each in picture.inputs:
            references: dict[Reference, Tensor] = {} if picture.hr_u8 is None else {"original": picture.hr_u8}
            if each.frames is not None:
                share = float(each.frames.still.float().mean())
                for protocol in each.protocols:
                    self.still[protocol, image_set].append((share, each.frames.noise))
            for label, model in rows:
                ensemble = self.settings.self_ensemble and not isinstance(model, Bicubic)

                def enlarge(lr: Tensor, model: Runtime = model, ensemble: bool = ensemble) -> Tensor:
                    return run_exactly(model, lr, self.settings.tile, ensemble, source.path)

                sr = enlarge(each.lr)
                if model is self.teacher:
                    references["teacher"] = to_u8(sr[0])
                frames = None if each.frames is None else _enlarged(each, sr, enlarge)
                keys = [(protocol, label, image_set) for protocol in each.protocols]
                scorer.submit(partial(self._score, keys, source.stem, sr, references, frames, picture.grey_file))
                del sr, frames  # free these large tensors before the next ones are computed
                if not overlapped:
                    scorer.finish()

    def _score(
        self,
        keys: Sequence[tuple[Protocol, str, str]],
        stem: str,
        sr: Tensor,
        references: Mapping[Reference, Tensor],
        frames: tuple[Tensor, Tensor, Tensor] | None,
        grey_file: bool,
    ) -> None:
        sr_u8 = to_u8(sr[0])
        for key in keys:
            protocol, figures = key[0], dict[str, float]()
            if frames is not None:
                first, second = (_planes(image, protocol, grey_file)[None] for image in frames[:2])
                before = first.masked_fill(~frames[2], math.nan)
                for row, measure in self.measures.values():
                    if row.takes == "frames":
                        figures[row.key] = float(measure(second, before, border=protocol.border or 0))
            for reference, reference_u8 in references.items():
                planes = [_planes(image, protocol, grey_file)[None] for image in (sr_u8, reference_u8)]
                for row, measure in self.measures.values():
                    if row.takes == "frames":
                        continue
                    ours, theirs = planes if row.takes == "channel" else (sr_u8[None], reference_u8[None])
                    figures[row.key_to(reference)] = float(measure(ours, theirs, border=protocol.border or 0))
            self.scores[key][stem] = ImageScore(figures)

    def evaluations(self, finished: Sequence[AnySet]) -> tuple[Evaluation, ...]:
        """Return the scores of the finished sets, one evaluation per protocol."""

        def of_sets(protocol: Protocol, label: str) -> dict[str, SetScore]:
            return {s.name: _set_score(s, protocol, self.scores[protocol, label, s.name]) for s in finished}

        def of_models(protocol: Protocol) -> dict[str, dict[str, SetScore]]:
            models = {label: of_sets(protocol, label) for label in self.rows}
            return models if teacher is None else _over_teacher(models, teacher, self.settings.metrics)

        scale, ensemble = self.settings.scale, self.settings.self_ensemble
        numbers = {label: numbers_of(model) for label, model in self.rows.items()}
        has_originals = not any(isinstance(image_set, LrSet) for image_set in finished)
        teacher = next((label for label, model in self.rows.items() if model is self.teacher), None)
        references: dict[Reference, bool] = {"original": has_originals, "teacher": teacher is not None}
        return tuple(
            Evaluation(
                protocol,
                scale,
                ensemble,
                of_models(protocol),
                numbers,
                self.settings.metrics,
                tuple(reference for reference, is_there in references.items() if is_there),
                teacher,
                {
                    s.name: _stillness(self.still[protocol, s.name])
                    for s in finished
                    if (protocol, s.name) in self.still
                },
            )
            for protocol in self.protocols
        )


def _enlarged(each: _Input, sr: Tensor, enlarge: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Return the enlarged frames in uint8, and where their input stands still; `sr` is the output of the LR image."""
    frames = each.frames
    assert frames is not None
    first = to_u8(sr[0] if frames.first is each.lr else enlarge(frames.first)[0])
    scale = sr.shape[-1] // each.lr.shape[-1]
    still = frames.still.repeat_interleave(scale, 0).repeat_interleave(scale, 1)
    return first, to_u8(enlarge(frames.second)[0]), still


def _stillness(images: Sequence[tuple[float, float | None]]) -> Stillness:
    shares = [share for share, _ in images]
    return Stillness(len(shares), sum(share > 0 for share in shares), sum(shares) / len(shares), images[0][1])


def _over_teacher(
    models: Mapping[str, Mapping[str, SetScore]], teacher: str, metrics: Sequence[str]
) -> dict[str, dict[str, SetScore]]:
    """Return the scores with figures of frames also in terms of the teacher's; of a set the ratio of the means."""
    rows = [row for row in map(METRICS.__getitem__, metrics) if row.takes == "frames"]

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


def _set_line(evaluation: Evaluation, name: str) -> str:
    metric, reference = evaluation.headline
    key = metric.key_to(reference)
    figures = (f"{label} {metric.show(scores[name][key])}" for label, scores in evaluation.models.items())
    return " ".join([f"{name}: {', '.join(figures)}", *([metric.unit] if metric.unit else [])])


def _with_unit(metric: Metric, figure: float) -> str:
    """A figure with its unit; metrics that are not the usual ones have their name before it."""
    text = f"{metric.show(figure)} {metric.unit}".strip()
    return text if metric.name in DEFAULT_METRICS else f"{metric.title} {text}"


def _set_score(image_set: AnySet, protocol: Protocol, images: Mapping[str, ImageScore]) -> SetScore:
    stored = not protocol.degradation and (
        isinstance(image_set, LrSet)
        or (protocol.bicubic == "matlab" and all(pair.lr is not None for pair in image_set.pairs))
    )
    keys = next(iter(images.values())).figures
    return SetScore(
        {key: _mean([score[key] for score in images.values()]) for key in keys},
        image_set.name,
        lr="stored" if stored else "made",
        images=images,
    )


def _mean(figures: Sequence[float]) -> float:
    """Return the mean of the figures that there are; beside others, equal images (inf dB) count as `EQUAL_DB`."""
    known = [figure for figure in figures if not math.isnan(figure)]
    if any(map(math.isfinite, known)):
        known = [EQUAL_DB if figure == math.inf else figure for figure in known]
    return sum(known) / len(known) if known else math.nan


def _by_label(models: Sequence[Runtime], scale: int, *, with_lanczos: bool) -> dict[str, Runtime]:
    """Return the models by label, after the rows without a network; duplicate labels are numbered."""
    plain = [Bicubic(scale), *([Lanczos(scale)] if with_lanczos else [])]
    rows: dict[str, Runtime] = {row.label: row for row in plain}
    for model in models:
        if model.descriptor.scale != scale:
            raise UsageError(f"{model.label} enlarges {model.descriptor.scale} times, the evaluation is at x{scale}")
        rows[unique_label(model.label, set(rows))] = model
    return rows


def _check_sets(
    sets: Sequence[AnySet],
    scale: int,
    protocols: Sequence[Protocol],
    measures: Mapping[str, tuple[Metric, Measure]],
    *,
    has_teacher: bool,
) -> dict[Path, int]:
    """Return the number of pixels of each output. Images too small for a metric and duplicate set names are refused
    before an hour is spent.
    """
    if not sets:
        raise UsageError("nothing to evaluate on: no image sets were given")
    names = [image_set.name for image_set in sets]
    if len(set(names)) < len(names):
        raise UsageError(f"two image sets have one name ({', '.join(sorted(names))}): rename a folder")
    if not has_teacher and any(isinstance(image_set, LrSet) for image_set in sets):
        raise UsageError("LR images alone have no originals to compare with: name a teacher, --against MODEL")
    sizes: dict[Path, tuple[int, int]] = {}
    for image_set in sets:
        for source in image_set.sources:
            width, height = image_size(source.path)
            factor = scale if isinstance(source, LrImage) else 1
            sizes[source.path] = width * factor // scale * scale, height * factor // scale * scale
    border = max(protocol.border or 0 for protocol in protocols)
    path, (width, height) = min(sizes.items(), key=lambda item: min(item[1]))
    for _, measure in measures.values():
        blank = torch.zeros(1, 3, height, width)
        try:
            measure(blank, blank, border=border)
        except ImageTooSmall as error:
            raise UsageError(f"{path}: {error}") from error
    return {path: width * height for path, (width, height) in sizes.items()}


def _read_picture(source: ImagePair | LrImage, settings: EvaluationSettings, protocols: Sequence[Protocol]) -> _Picture:
    """Return the images of a pair; protocols with the same LR image share the models' outputs."""
    scale, degradation = settings.scale, settings.degradation
    image_u8, grey_file = read_rgb_u8_and_grey(source.path)
    hr_u8 = None if isinstance(source, LrImage) else mod_crop(image_u8, scale)
    by_lr: dict[tuple[str, str], list[Protocol]] = defaultdict(list)
    for protocol in protocols:
        is_made = hr_u8 is not None and degradation is None
        by_lr[(protocol.bicubic, protocol.lr_border) if is_made else ("", "")].append(protocol)
    inputs = []
    for same_lr in by_lr.values():
        if isinstance(source, LrImage) or hr_u8 is None:
            lr_u8 = image_u8 if degradation is None else degradation.of_image(image_u8, 1, source.stem)
        elif degradation is not None:
            lr_u8 = degradation.of_image(hr_u8, scale, source.stem)
        elif source.lr is not None and same_lr[0].bicubic == "matlab":
            lr_u8 = read_stored_lr(source.lr, hr_u8, scale)
        else:
            lr_u8 = make_lr(hr_u8, scale, same_lr[0])
        lr = _to_unit_range(lr_u8)
        has_frames = any(METRICS[name].takes == "frames" for name in settings.metrics)
        frames = _frames_of(source, lr_u8, lr, degradation) if has_frames else None
        inputs.append(_Input(lr, tuple(same_lr), frames))
    return _Picture(hr_u8, grey_file, tuple(inputs))


def _to_unit_range(image_u8: Tensor) -> Tensor:
    return image_u8[None].float().div(255)


def _frames_of(source: ImagePair | LrImage, lr_u8: Tensor, lr: Tensor, degradation: Degradation | None) -> _Frames:
    """Return an LR image and the frame after it; for a photo, the LR image with two draws of noise."""
    if isinstance(source, LrImage) and source.following is not None:
        after_u8 = read_rgb_u8(source.following)
        if degradation is not None:
            after_u8 = degradation.of_image(after_u8, 1, source.stem)
        return _Frames(lr, _to_unit_range(after_u8), still_pixels(lr_u8, after_u8), None)
    noisy = [
        _to_unit_range(
            to_u8(
                add_gaussian(
                    lr[0], PHOTO_NOISE, grey=False, generator=Draws.of_name(source.stem).stage(f"frame {number}")
                )
            )
        )
        for number in range(2)
    ]
    everywhere = torch.ones(lr.shape[-2:], dtype=torch.bool)
    return _Frames(noisy[0], noisy[1], everywhere, PHOTO_NOISE)


def run_exactly(model: Runtime, lr: Tensor, tile: int | None, ensemble: bool, path: Path) -> Tensor:
    """Return the output; for an unbounded receptive field, tiles change the figures and are used only on request."""
    is_exact = model.descriptor.receptive_radius is not None
    result = super_resolve(model, lr, tile=tile if is_exact or tile is not None else 0, self_ensemble=ensemble)
    if result.seam is not None and tile is None:
        raise SrkdError(f"{model.label} needs more memory than there is for {path} at once: give a tile size (--tile)")
    return result.sr


def read_stored_lr(path: Path, hr_u8: Tensor, scale: int) -> Tensor:
    """Return the stored LR image of an HR image; refuse one of another size."""
    lr_u8 = read_rgb_u8(path)
    height, width = hr_u8.shape[-2] // scale, hr_u8.shape[-1] // scale
    if lr_u8.shape[-2:] != (height, width):
        raise SrkdError(
            f"{path} has {lr_u8.shape[-1]}x{lr_u8.shape[-2]} pixels, its HR image needs {width}x{height} at x{scale}"
        )
    return lr_u8


def _planes(image_u8: Tensor, protocol: Protocol, grey_file: bool) -> Tensor:
    """Return the channel that is compared, on 0..255."""
    if grey_file and protocol.grey == "raw":
        return grey_of(image_u8.double())
    return luma(image_u8.double() / PEAK) if protocol.channel == "y" else image_u8.double()
