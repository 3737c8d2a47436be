"""PAMS: quantised residual blocks with a learnt range, and the float network's attention as a teacher.

    L = L1(S, y) + γ·mean( (â(F_S) - â(F_T))² ),   â(F) = flatten(mean_c F²)/‖·‖₂ of a sample,   F at pre_up

Code followed: colorjam/PAMS, main.py, utils/common.py; γ = 1000 there, for images in [0,255], and 1000/255 for [0,1].
Quantisers: compressor/models/quantisation/quantisers.py; the two stages: quantised.py; where we differ:
docs/methods/pams.md. The maps have no channels, so the teacher may be wider, or another kind of network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch.nn import functional as F

from compressor.models.networks.base import Network
from compressor.training.method import FeaturePair
from compressor.training.step import Step
from recipes.terms.distances import widen
from recipes.terms.quantised import QuantisedMethod

TAP = "pre_up"


@dataclass(frozen=True)
class Pams(QuantisedMethod):
    gamma: Annotated[float, Field(ge=0, description="γ, weight of the attention term for images in [0,1]")] = 1000 / 255
    compat: Annotated[Literal["", "pams"], Field(description="pams: conv1, α and ties as PAMS's code has them")] = ""
    name: str = "pams"

    @property
    def weights(self) -> Mapping[str, float]:
        return {"pixel": 1.0, "attention": self.gamma}

    @property
    def code(self) -> Literal["", "pams"]:
        return self.compat

    def losses(self, step: Step) -> dict[str, torch.Tensor]:
        target = step.teacher(taps=(TAP,))
        output = step.student(taps=(TAP,))
        attention = attention_distance(output.features[TAP], target.features[TAP])
        return {"pixel": F.l1_loss(output.sr, step.hr), "attention": attention}

    def feature_pairs(self, teacher: Network | None, student: Network) -> list[FeaturePair]:
        return [FeaturePair("attention", TAP, TAP)]


def attention_map(feature: torch.Tensor) -> torch.Tensor:
    """Return the attention map â of each sample, (B, h·w)."""
    return F.normalize(widen(feature).square().mean(1).flatten(1))


def attention_distance(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Return the mean over samples and positions of the squared difference of the attention maps."""
    return (attention_map(student) - attention_map(teacher.detach())).square().mean()
