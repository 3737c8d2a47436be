"""Scores of models on benchmark sets. Each image is decoded once and run once per model; bicubic is always included, at
scale 1 the input.

Images are compared with the originals, with the images of a teacher, or with both; by flicker with those of the frame
before.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import islice
from pathlib import Path

from torch import Tensor

from compressor.base.context import QUIET, Context
from compressor.base.errors import SrkdError, UsageError
from compressor.degradation.chain import Degradation
from compressor.images.files import grey_of
from compressor.images.metrics import luma_of, to_u8
from compressor.images.protocol import Protocol
from compressor.images.sets import AnySet, ImagePair, LrImage, LrSet
from compressor.inference.background import OneBehind, one_ahead
from compressor.inference.evaluated_images import EvaluatedPicture, check_sets, is_lr_stored, read_picture
from compressor.inference.evaluation import (
    Evaluation,
    EvaluationInterrupted,
    ImageScore,
    SetScore,
    Stillness,
    over_teacher,
)
from compressor.inference.metric_table import DEFAULT_METRICS, METRICS, Measure, Reference
from compressor.inference.numbers import numbers_of
from compressor.inference.open import unique_label
from compressor.inference.super_resolve import Enlargement, super_resolve
from compressor.runtimes.base import Runtime


@dataclass(frozen=True)
class EvaluationSettings:
    """The settings that all models share. A `tile` of None tiles only where that changes no figure."""

    scale: int
    protocol: Protocol = field(default_factory=Protocol)
    self_ensemble: bool = False
    tile: int | None = None
    metrics: tuple[str, ...] = DEFAULT_METRICS
    degradation: Degradation | None = None
    """What the LR images suffer: they are made from the originals, stored ones are degraded if there are no others."""


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
    `EvaluationInterrupted` with the finished ones.

    All images are also compared with those of `teacher`, one of the models; sets of LR images alone need it.
    """
    scale, protocol = settings.scale, settings.protocol.at(settings.scale)
    rows = _by_label(models, scale, with_lanczos=teacher is not None and scale > 1)
    table = _Table(rows, settings, protocol, teacher)
    check_sets(sets, scale, protocol.border or 0, table.measures, has_teacher=teacher is not None)
    sources = [source for image_set in sets for source in image_set.sources]
    with_frames = any(METRICS[name].takes == "frames" for name in settings.metrics)
    if with_frames and any(isinstance(source, ImagePair) or source.following is None for source in sources):
        raise UsageError("--metrics flicker: needs the frames of a film, --data film.mp4")

    def read(source: ImagePair | LrImage) -> EvaluatedPicture:
        return read_picture(source, scale, protocol, settings.degradation, with_frames=with_frames)

    with OneBehind() as scorer, one_ahead(map(read, sources)) as read_pictures:
        pictures = zip(context.each("scored", sources), read_pictures, strict=True)
        for number, image_set in enumerate(sets):
            try:
                for source, reading in islice(pictures, len(image_set.sources)):
                    table.run_models(image_set.name, source, reading.result(), scorer)
                scorer.finish()
            except KeyboardInterrupt as error:
                if number == 0:
                    raise
                unfinished = tuple(other.name for other in sets[number:])
                raise EvaluationInterrupted(table.evaluation(sets[:number]), unfinished) from error
            if len(sets) > 1:
                context.note(table.evaluation([image_set]).line_about(image_set.name))
    context.progress("scored", len(sources), len(sources))
    return table.evaluation(sets)


@dataclass(frozen=True)
class _Table:
    """The scores of all models, by model, set and image."""

    rows: Mapping[str, Runtime]
    settings: EvaluationSettings
    protocol: Protocol
    teacher: Runtime | None
    scores: dict[tuple[str, str], dict[str, ImageScore]] = field(default_factory=lambda: defaultdict(dict))
    still: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """The part of each frame that stands still, by set."""

    @cached_property
    def measures(self) -> Mapping[str, Measure]:
        return {name: METRICS[name].load() for name in self.settings.metrics}

    def run_models(
        self, image_set: str, source: ImagePair | LrImage, picture: EvaluatedPicture, scorer: OneBehind
    ) -> None:
        """Run every model, and score its outputs during the next run."""
        still = picture.still
        if still is not None:
            self.still[image_set].append(float(still.float().mean()))
            still = still.repeat_interleave(self.settings.scale, 0).repeat_interleave(self.settings.scale, 1)
        rows = sorted(self.rows.items(), key=lambda row: row[1] is not self.teacher)  # the teacher's image comes first
        references: dict[Reference, Tensor] = {} if picture.hr_u8 is None else {"original": picture.hr_u8}
        for label, model in rows:
            ensemble = self.settings.self_ensemble and not isinstance(model, Enlargement)
            enlarge = partial(run_exactly, model, tile=self.settings.tile, ensemble=ensemble, path=source.path)
            sr_u8 = to_u8(enlarge(picture.lr)[0])
            if model is self.teacher:
                references["teacher"] = sr_u8
            after = None if picture.after is None else to_u8(enlarge(picture.after)[0])
            frames = None if after is None or still is None else (after, still)
            key = label, image_set
            scorer.submit(partial(self._score, key, source.stem, sr_u8, references, frames, picture.grey_file))

    def _score(
        self,
        key: tuple[str, str],
        stem: str,
        sr_u8: Tensor,
        references: Mapping[Reference, Tensor],
        frames: tuple[Tensor, Tensor] | None,
        grey_file: bool,
    ) -> None:
        figures, border = dict[str, float](), self.protocol.border or 0
        if frames is not None:
            after, still = self._planes(frames[0], grey_file), frames[1]
            before = self._planes(sr_u8, grey_file).masked_fill(~still, math.nan)
            for name, measure in self.measures.items():
                if METRICS[name].takes == "frames":
                    figures[METRICS[name].key] = float(measure(after, before, border=border))
        for reference, reference_u8 in references.items():
            planes = [self._planes(image, grey_file) for image in (sr_u8, reference_u8)]
            for name, measure in self.measures.items():
                row = METRICS[name]
                if row.takes != "frames":
                    compared = planes if row.takes == "channel" else [sr_u8[None], reference_u8[None]]
                    figures[row.key_to(reference)] = float(measure(*compared, border=border))
        self.scores[key][stem] = ImageScore(figures)

    def _planes(self, image_u8: Tensor, grey_file: bool) -> Tensor:
        """Return the channel that is compared, (1,1,H,W) on 0..255."""
        if grey_file and self.protocol.grey == "raw":
            return grey_of(image_u8.double())[None]
        return luma_of(image_u8)[None]

    def evaluation(self, finished: Sequence[AnySet]) -> Evaluation:
        teacher = next((label for label, model in self.rows.items() if model is self.teacher), None)
        has_originals = not any(isinstance(image_set, LrSet) for image_set in finished)
        references: dict[Reference, bool] = {"original": has_originals, "teacher": teacher is not None}
        origins = {each.name: "stored" if is_lr_stored(each, self.protocol) else "made" for each in finished}
        models = {
            label: {name: SetScore.of(self.scores[label, name], name, origin) for name, origin in origins.items()}
            for label in self.rows
        }
        return Evaluation(
            self.protocol,
            self.settings.scale,
            self.settings.self_ensemble,
            models if teacher is None else over_teacher(models, teacher, self.settings.metrics),
            {label: numbers_of(model) for label, model in self.rows.items()},
            self.settings.metrics,
            tuple(reference for reference, is_there in references.items() if is_there),
            teacher,
            {each.name: Stillness.of(self.still[each.name]) for each in finished if each.name in self.still},
        )


def _by_label(models: Sequence[Runtime], scale: int, *, with_lanczos: bool) -> dict[str, Runtime]:
    """Return the models by label, after the rows without a network; duplicate labels are numbered."""
    plain = [Enlargement(scale), *([Enlargement(scale, "lanczos")] if with_lanczos else [])]
    rows: dict[str, Runtime] = {row.label: row for row in plain}
    for model in models:
        if model.descriptor.scale != scale:
            raise UsageError(f"{model.label} enlarges {model.descriptor.scale} times, the evaluation is at x{scale}")
        rows[unique_label(model.label, set(rows))] = model
    return rows


def run_exactly(model: Runtime, lr: Tensor, tile: int | None, ensemble: bool, path: Path) -> Tensor:
    """Return the output; for an unbounded receptive field, tiles change the figures and are used only on request."""
    is_exact = model.descriptor.receptive_radius is not None
    result = super_resolve(model, lr, tile=tile if is_exact or tile is not None else 0, self_ensemble=ensemble)
    if result.seam is not None and tile is None:
        raise SrkdError(
            f"{model.label} does not take {path} as a whole, for its size or for lack of memory, and tiles change its "
            "figures: allow them with a tile size (--tile)"
        )
    return result.sr
