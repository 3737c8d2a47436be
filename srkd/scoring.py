"""What `srkd evaluate` was asked for: which models, on which images, by which protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from compressor.base.context import Note, Progress, no_note, no_progress
from compressor.images.metrics import Protocol
from compressor.images.sets import ImageSet
from compressor.inference import evaluate as evaluation
from compressor.inference.evaluate import Evaluation
from compressor.runtimes.base import Runtime
from srkd.opening import Model, Opening, common_scale, image_sets

Grey: TypeAlias = Literal["rgb", "raw"]


@dataclass(frozen=True)
class Scoring:
    """Models side by side on image sets, bicubic always beside them; no data means the embedded photos."""

    models: Sequence[Model] = ()
    data: str | Path | None = None
    lr: str | Path | None = None
    opening: Opening = field(default_factory=Opening)
    protocol: Protocol = field(default_factory=Protocol)
    self_ensemble: bool = False
    tile: int | None = None

    def evaluate(self, progress: Progress = no_progress, announce: Note = no_note) -> Evaluation:
        """Scores by the protocol."""
        runtimes, sets, scale = self._opened(announce)
        return evaluation.evaluate(
            runtimes,
            sets,
            scale=scale,
            protocol=self.protocol,
            self_ensemble=self.self_ensemble,
            tile=self.tile,
            progress=progress,
        )

    def explain(self, progress: Progress = no_progress, announce: Note = no_note) -> tuple[Evaluation, ...]:
        """The same, followed by the conventions that these figures are mistaken for."""
        runtimes, sets, scale = self._opened(announce)
        return evaluation.explain(
            runtimes,
            sets,
            scale=scale,
            protocol=self.protocol,
            self_ensemble=self.self_ensemble,
            tile=self.tile,
            progress=progress,
        )

    def _opened(self, announce: Note) -> tuple[list[Runtime], tuple[ImageSet, ...], int]:
        runtimes = [self.opening.open(model, announce) for model in self.models]
        scale = common_scale(runtimes, self.opening.scale)
        return runtimes, image_sets(self.data, scale=scale, lr=self.lr, announce=announce), scale
