"""PACT: activations clipped at a learnt level and quantised, with quantised weights; only the pixel loss.

    after a ReLU       Q(v) = round(clip(v, 0, α)·n/α)·α/n,   n = 2^k - 1,   dQ/dα = 1[v ≥ α]
    signed features    PAMS's symmetric form

Our sources only mention the name: places, weights and stages are those of PAMS (quantised.py); docs/methods/pact.md.
α = 10 suits activations of a few units; `alpha=None` finds α in a calibration stage, as the preset does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch.nn import functional as F

from compressor.models.networks.base import Network
from compressor.models.quantisation.quantisers import quantisers_of
from compressor.training.method import EarlierStage
from compressor.training.step import Step
from recipes.terms.quantised import QuantisedMethod


@dataclass(frozen=True)
class Pact(QuantisedMethod):
    alpha: Annotated[float | None, Field(gt=0, description="first α; none: found by a calibration stage")] = 10.0
    decay: Annotated[float, Field(ge=0, description="weight decay of α")] = 1e-4
    name: str = "pact"

    @property
    def alpha_decay(self) -> float:
        return self.decay

    def earlier_stages(self) -> Sequence[EarlierStage]:
        return super().earlier_stages() if self.alpha is None else ()

    @torch.no_grad()
    def fit(self, teacher: Network | None, student: Network) -> QuantisedMethod:
        fitted = super().fit(teacher, student)
        if self.alpha is not None:
            for quantiser in quantisers_of(student).values():
                quantiser.alpha.fill_(self.alpha)
        return fitted

    def losses(self, step: Step) -> dict[str, torch.Tensor]:
        return {"pixel": F.l1_loss(step.student().sr, step.hr)}
