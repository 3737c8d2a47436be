"""Scores of models on benchmark sets. Each image is decoded once and run once per model; bicubic is always included."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from compressor.base.context import QUIET, Context
from compressor.base.errors import SrkdError, UsageError
from compressor.images.files import grey_of, image_size, read_rgb_u8, read_rgb_u8_and_grey
from compressor.images.metrics import PEAK, SSIM_WINDOW, Protocol, finite_or_none, luma, psnr, ssim, to_u8
from compressor.images.resize import downscale_u8, mod_crop
from compressor.images.sets import ImagePair, ImageSet
from compressor.inference.background import OneBehind, read_ahead
from compressor.inference.numbers import Numbers, numbers_of
from compressor.inference.open import unique_label
from compressor.inference.super_resolve import Bicubic, super_resolve
from compressor.runtimes.base import Runtime

OVERLAPPED_PIXELS = 2**23
"""HR images up to this size (3840x2160) are read and scored while the network runs, in about 1 GB; larger ones are
processed alone."""


@dataclass(frozen=True)
class EvaluationSettings:
    """The settings that all models share. A `tile` of None tiles only where that changes no figure."""

    scale: int
    protocol: Protocol = field(default_factory=Protocol)
    self_ensemble: bool = False
    tile: int | None = None


@dataclass(frozen=True)
class ImageScore:
    """The scores of one image; PSNR in dB, infinite for equal images."""

    psnr_y: float
    ssim_y: float

    def to_dict(self) -> dict[str, Any]:
        """Return the scores for JSON: infinite PSNR becomes None."""
        return {"psnr_y": finite_or_none(self.psnr_y), "ssim_y": self.ssim_y}


@dataclass(frozen=True)
class SetScore:
    """The mean scores of one set, and those of each image."""

    name: str
    psnr_y: float
    ssim_y: float
    lr: str
    """The origin of the low-resolution images: "stored" or "made"."""
    images: Mapping[str, ImageScore]

    def to_dict(self) -> dict[str, Any]:
        """Return the entry of `srkd evaluate --json`."""
        images = {stem: score.to_dict() for stem, score in self.images.items()}
        return {**ImageScore(self.psnr_y, self.ssim_y).to_dict(), "lr": self.lr, "images": images}


@dataclass(frozen=True)
class Evaluation:
    """Scores by model and set, all by one protocol; with channel "rgb" the `*_y` fields are of that channel."""

    protocol: Protocol
    scale: int
    self_ensemble: bool
    models: Mapping[str, Mapping[str, SetScore]]
    numbers: Mapping[str, Numbers] = field(default_factory=dict)
    """The precision and quantisation of each model, by label."""

    def __str__(self) -> str:
        """Return one line for the protocol, and one per model with its means over each set."""
        sets = (
            (model, "".join(f", {name} {score.psnr_y:.3f} dB {score.ssim_y:.4f}" for name, score in scores.items()))
            for model, scores in self.models.items()
        )
        return "\n".join([f"x{self.scale}, {self.protocol}", *(f"{model}{line}" for model, line in sets)])

    def to_dict(self) -> dict[str, Any]:
        """Return the entry of `srkd evaluate --json`."""
        return {
            "protocol": str(self.protocol),
            "scale": self.scale,
            "self_ensemble": self.self_ensemble,
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
    sets: Sequence[ImageSet],
    settings: EvaluationSettings,
    context: Context = QUIET,
) -> Evaluation:
    """Return the scores of models on sets by the protocol of the settings. Stored LR images are used where a set has
    them, otherwise they are made. The model `bicubic` is always the first row, without the self-ensemble. With several
    sets each is noted when it is finished, and Ctrl-C raises `EvaluationInterrupted` with the finished ones. While a
    network runs, the next image is read and the last output is scored.
    """
    return _evaluate(models, sets, settings, [settings.protocol], context)[0]


def explain(
    models: Sequence[Runtime],
    sets: Sequence[ImageSet],
    settings: EvaluationSettings,
    context: Context = QUIET,
) -> tuple[Evaluation, ...]:
    """Return the result of `evaluate`, then those of protocols it is often confused with: PSNR over RGB, no border
    cropped, LR made by Pillow's bicubic, grey files scored on their raw values. Each differs from the first in one
    field.
    """
    base = settings.protocol.at(settings.scale)
    variants = [
        replace(base, channel="rgb" if base.channel == "y" else "y"),
        replace(base, border=0 if base.border else settings.scale),
        replace(base, bicubic="pil" if base.bicubic == "matlab" else "matlab"),
        replace(base, grey="raw" if base.grey == "rgb" else "rgb"),
    ]
    return _evaluate(models, sets, settings, [base, *variants], context)


def make_lr(hr_u8: Tensor, scale: int, protocol: Protocol) -> Tensor:
    """Return the low-resolution image of a cropped (3,H,W) image, by the protocol's bicubic."""
    if protocol.bicubic == "matlab":
        return downscale_u8(hr_u8, scale, border=protocol.lr_border)
    height, width = hr_u8.shape[-2] // scale, hr_u8.shape[-1] // scale
    small = Image.fromarray(hr_u8.permute(1, 2, 0).numpy()).resize((width, height), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(small)).permute(2, 0, 1).contiguous()


def _evaluate(
    models: Sequence[Runtime],
    sets: Sequence[ImageSet],
    settings: EvaluationSettings,
    protocols: Sequence[Protocol],
    context: Context,
) -> tuple[Evaluation, ...]:
    scale = settings.scale
    protocols = [protocol.at(scale) for protocol in protocols]
    table = _Table({"bicubic": Bicubic(scale)} | _by_label(models, scale), settings, protocols)
    pixels = _check_sets(sets, scale, protocols)
    pairs = [pair for image_set in sets for pair in image_set.pairs]
    read = partial(_read_picture, scale=scale, protocols=protocols)
    done, total = 0, len(pairs)

    def is_overlapped(pair: ImagePair) -> bool:
        return pixels[pair.hr] <= OVERLAPPED_PIXELS

    with OneBehind() as scorer, read_ahead(pairs, read, is_overlapped) as pictures:
        for number, image_set in enumerate(sets):
            try:
                for pair, reading in islice(pictures, len(image_set.pairs)):
                    context.progress(f"{image_set.name}: {pair.stem}", done, total)
                    table.run_models(image_set.name, pair, reading.result(), scorer, overlapped=is_overlapped(pair))
                    done += 1
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
class _Picture:
    """An HR image (3,H,W) cropped to the scale, and each LR image (1,3,h,w) with its protocols."""

    hr_u8: Tensor
    grey_file: bool
    inputs: tuple[tuple[Tensor, tuple[Protocol, ...]], ...]


@dataclass(frozen=True)
class _Table:
    """The scores of all models, by protocol, model, set and image."""

    rows: Mapping[str, Runtime]
    settings: EvaluationSettings
    protocols: Sequence[Protocol]
    scores: dict[tuple[Protocol, str, str], dict[str, ImageScore]] = field(default_factory=lambda: defaultdict(dict))

    def run_models(
        self, image_set: str, pair: ImagePair, picture: _Picture, scorer: OneBehind, *, overlapped: bool
    ) -> None:
        """Run every model and score its outputs: during the next run if `overlapped`, else before it."""
        for lr, same_lr in picture.inputs:
            for label, model in self.rows.items():
                ensemble = self.settings.self_ensemble and label != "bicubic"
                sr = _run_exactly(model, lr, self.settings.tile, ensemble, pair.hr)
                keys = [(protocol, label, image_set) for protocol in same_lr]
                scorer.submit(partial(self._score, keys, pair.stem, sr, picture))
                del sr  # free this large tensor before the next one is computed
                if not overlapped:
                    scorer.finish()

    def _score(self, keys: Sequence[tuple[Protocol, str, str]], stem: str, sr: Tensor, picture: _Picture) -> None:
        sr_u8 = to_u8(sr[0])
        for key in keys:
            protocol, border = key[0], key[0].border or 0
            ours, hr = (_planes(image[None], protocol, picture.grey_file) for image in (sr_u8, picture.hr_u8))
            self.scores[key][stem] = ImageScore(
                float(psnr(ours, hr, border=border)), float(ssim(ours, hr, border=border))
            )

    def evaluations(self, finished: Sequence[ImageSet]) -> tuple[Evaluation, ...]:
        """Return the scores of the finished sets, one evaluation per protocol."""

        def of_sets(protocol: Protocol, label: str) -> dict[str, SetScore]:
            return {s.name: _set_score(s, protocol, self.scores[protocol, label, s.name]) for s in finished}

        scale, ensemble = self.settings.scale, self.settings.self_ensemble
        numbers = {label: numbers_of(model) for label, model in self.rows.items()}
        return tuple(
            Evaluation(protocol, scale, ensemble, {label: of_sets(protocol, label) for label in self.rows}, numbers)
            for protocol in self.protocols
        )


def _set_line(evaluation: Evaluation, name: str) -> str:
    figures = (f"{label} {scores[name].psnr_y:.3f}" for label, scores in evaluation.models.items())
    return f"{name}: {', '.join(figures)} dB"


def _set_score(image_set: ImageSet, protocol: Protocol, images: Mapping[str, ImageScore]) -> SetScore:
    stored = protocol.bicubic == "matlab" and all(pair.lr is not None for pair in image_set.pairs)
    return SetScore(
        image_set.name,
        psnr_y=sum(score.psnr_y for score in images.values()) / len(images),
        ssim_y=sum(score.ssim_y for score in images.values()) / len(images),
        lr="stored" if stored else "made",
        images=images,
    )


def _by_label(models: Sequence[Runtime], scale: int) -> dict[str, Runtime]:
    """Return the models by label; duplicate labels are numbered."""
    rows: dict[str, Runtime] = {}
    for model in models:
        if model.descriptor.scale != scale:
            raise UsageError(f"{model.label} enlarges {model.descriptor.scale} times, the evaluation is at x{scale}")
        rows[unique_label(model.label, {"bicubic", *rows})] = model
    return rows


def _check_sets(sets: Sequence[ImageSet], scale: int, protocols: Sequence[Protocol]) -> dict[Path, int]:
    """Return the number of pixels of each HR image. Images too small to score and duplicate set names are refused
    before an hour is spent.
    """
    if not sets:
        raise UsageError("nothing to evaluate on: no image sets were given")
    names = [image_set.name for image_set in sets]
    if len(set(names)) < len(names):
        raise UsageError(f"two image sets have one name ({', '.join(sorted(names))}): rename a folder")
    border = max(protocol.border or 0 for protocol in protocols)
    pixels: dict[Path, int] = {}
    for image_set in sets:
        for pair in image_set.pairs:
            width, height = image_size(pair.hr)
            pixels[pair.hr] = width * height
            if min(width // scale, height // scale) * scale - 2 * border < SSIM_WINDOW:
                raise UsageError(
                    f"{pair.hr} has {width}x{height} pixels: x{scale} with a border of {border} needs "
                    f"{SSIM_WINDOW + 2 * border} a side for SSIM, leave it out of the set"
                )
    return pixels


def _read_picture(pair: ImagePair, scale: int, protocols: Sequence[Protocol]) -> _Picture:
    """Return the images of a pair; protocols with the same LR image share the models' outputs."""
    hr_u8, grey_file = read_rgb_u8_and_grey(pair.hr)
    hr_u8 = mod_crop(hr_u8, scale)
    by_lr: dict[tuple[str, str], list[Protocol]] = defaultdict(list)
    for protocol in protocols:
        by_lr[protocol.bicubic, protocol.lr_border].append(protocol)
    inputs = []
    for same_lr in by_lr.values():
        stored = pair.lr if same_lr[0].bicubic == "matlab" else None
        lr_u8 = make_lr(hr_u8, scale, same_lr[0]) if stored is None else _read_stored_lr(stored, hr_u8, scale)
        inputs.append((lr_u8[None].float().div(255), tuple(same_lr)))
    return _Picture(hr_u8, grey_file, tuple(inputs))


def _run_exactly(model: Runtime, lr: Tensor, tile: int | None, ensemble: bool, path: Path) -> Tensor:
    """Return the output; for an unbounded receptive field, tiles change the figures and are used only on request."""
    is_exact = model.descriptor.receptive_radius is not None
    result = super_resolve(model, lr, tile=tile if is_exact or tile is not None else 0, self_ensemble=ensemble)
    if result.seam is not None and tile is None:
        raise SrkdError(f"{model.label} needs more memory than there is for {path} at once: give a tile size (--tile)")
    return result.sr


def _read_stored_lr(path: Path, hr_u8: Tensor, scale: int) -> Tensor:
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
        return grey_of(image_u8[0].double())[None]
    return luma(image_u8.double() / PEAK) if protocol.channel == "y" else image_u8.double()
