"""What methods share that contrast images through φ: the negatives, and the ratio over all processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field

from compressor.training.step import Step
from recipes.looking import UsesPerceptualNet
from recipes.terms.ratio import NEGATIVES, bicubic_negatives, negative_indices, ratio_of, sample_distances


@dataclass(frozen=True)
class Contrasts(UsesPerceptualNet):
    negatives: Annotated[
        int, Field(ge=1, description="K, bicubic images to be far from; the term is a ratio to their sum")
    ] = NEGATIVES
    compat: Annotated[
        Literal["", "csd"], Field(description="csd: as its code does, the first K images of the batch as negatives")
    ] = ""

    def contrast(self, step: Step, images: Sequence[torch.Tensor], positive: torch.Tensor) -> torch.Tensor:
        """The ratio, summed over images; positive and negatives are looked at once for all of them."""
        phi = step.helpers[self.name]["phi"]
        lr = step.everyone(step.lr)
        chosen = negative_indices(range(len(lr)), self.negatives, seed=step.seed, step=step.number, compat=self.compat)
        positives, negatives = phi(positive), phi(bicubic_negatives(lr[chosen], step.scale))
        # Only the distances of each sample travel between processes, not the features.
        rows = (step.everyone(sample_distances(phi(image), positives, negatives)) for image in images)
        return torch.stack([ratio_of(of_all) for of_all in rows]).sum()
