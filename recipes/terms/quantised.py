"""The common part of PAMS and PACT: a quantised student whose ranges are calibrated, then learnt at their own rate.

    stage 1, calibration   nothing is clipped; a = mean over samples of max|v|, d = 0.9997, and α their average:
                           α_t = α_(t-1) + (1 - d)/(1 - d^t)·(a_t - α_(t-1))
    stage 2                α is trained, by Adam at 1e-2 in a network that works in 0..255, and kept above 0

Code followed: colorjam/PAMS, model/quant_ops.py, where α is the last batch's a. With `placement="all"`, layers outside
the blocks with inputs of 8 bits or more use the largest feature of any sample: a mean would clip white.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, cast

import torch
from pydantic import Field
from torch import nn

from compressor.base.errors import UsageError
from compressor.models.networks.base import Network
from compressor.models.quantisation.description import (
    FEWEST_BITS,
    MOST_BITS,
    Placement,
    Quantisation,
    QuantisationMethod,
)
from compressor.models.quantisation.quantisers import SMALLEST_ALPHA, Quantiser, following, quantisers_of
from compressor.training.method import EarlierStage, Kind, Method, OwnRate
from compressor.training.step import Step

AVERAGE_DECAY = 0.9997
CALIBRATION_SHARE = 1 / 29
"""Share of the later steps for calibration: PAMS uses the first of its 30 epochs."""
MOST_CALIBRATION_STEPS = 1000
USUAL_RANGE = 255.0
"""Value range of the network for which α's rate is published."""

Bits = Annotated[int, Field(ge=FEWEST_BITS, le=MOST_BITS, description="bits of weights and features")]
WhatIsQuantised = Annotated[
    Placement,
    Field(description="paper: the layers of residual blocks, a scale a tensor; all: every layer, a scale a channel"),
]
AlphaRate = Annotated[float, Field(gt=0, description="learning rate of α, for a network that works in 0..255")]


@dataclass(frozen=True)
class QuantisedMethod(Method):
    """A method that trains a quantised student."""

    bits: Bits = 8
    placement: WhatIsQuantised = "paper"
    alpha_rate: AlphaRate = 1e-2
    name: str = ""
    kind: Kind = "quantised"

    def __post_init__(self) -> None:
        # Validate what an option's type does not.
        _ = self.quantisation

    @property
    def weights(self) -> Mapping[str, float]:
        return {"pixel": 1.0}

    @property
    def quantisation(self) -> Quantisation:
        return Quantisation(cast(QuantisationMethod, self.name), self.bits, self.placement, self.code)

    @property
    def code(self) -> Literal["", "pams"]:
        """The published code to follow where it differs from our decisions."""
        return ""

    @property
    def alpha_decay(self) -> float:
        return 0.0

    def earlier_stages(self) -> Sequence[EarlierStage]:
        stage = Calibration(self, f"{self.name}-calibration")
        return (EarlierStage("calibrate", stage, CALIBRATION_SHARE, most=MOST_CALIBRATION_STEPS),)

    def own_rates(self, student: Network, modules: nn.ModuleDict) -> Sequence[OwnRate]:
        alphas = [quantiser.alpha for quantiser in quantisers_of(student).values()]
        working_range = float(student.spec.to_dict().get("img_range", 1.0))
        return (OwnRate(alphas, self.alpha_rate * working_range / USUAL_RANGE, self.alpha_decay),)

    def fit(self, teacher: Network | None, student: Network) -> QuantisedMethod:
        """Refuse a student that is not quantised."""
        if student.quantisation is None or not quantisers_of(student):
            raise UsageError(f"{self.name} trains a quantised student, and this {student.spec.arch} is a float network")
        return self

    def terms(self, step: Step) -> dict[str, torch.Tensor]:
        step.after_update(lambda: keep_positive(step.student_network))
        return self.losses(step)

    def losses(self, step: Step) -> dict[str, torch.Tensor]:
        """Return the terms, which are the same in both stages."""
        raise NotImplementedError


@dataclass(frozen=True)
class Calibration(Method):
    """Stage 1: the losses of the method, while α follows the features."""

    of: QuantisedMethod
    name: str
    kind: Kind = "quantised"

    @property
    def weights(self) -> Mapping[str, float]:
        return self.of.weights

    def own_rates(self, student: Network, modules: nn.ModuleDict) -> Sequence[OwnRate]:
        return self.of.own_rates(student, modules)

    def modules(self, teacher: Network | None, student: Network) -> nn.ModuleDict:
        steps = nn.Module()
        steps.register_buffer("done", torch.zeros((), dtype=torch.int64))
        return nn.ModuleDict({"steps": steps})

    def terms(self, step: Step) -> dict[str, torch.Tensor]:
        # Counted are the steps that updated the weights.
        done = step.modules[self.name]["steps"].get_buffer("done")
        share = 1.0 if self.of.code else average_share(int(done) + 1)

        def follow(quantiser: Quantiser, peaks: torch.Tensor) -> torch.Tensor:
            alpha, everywhere = quantiser.alpha.detach(), step.all_gather(peaks)
            if quantiser.keeps_peaks:
                followed = everywhere.max() if share == 1.0 else torch.maximum(alpha, everywhere.max())
            else:
                followed = alpha + share * (everywhere.mean() - alpha)
            return followed.clamp_min(SMALLEST_ALPHA)

        with following(step.student_network, follow) as followed:
            losses = self.of.losses(step)

        @torch.no_grad()
        def keep() -> None:
            for alpha, value in followed.items():
                alpha.copy_(value)
            done.add_(1)

        step.after_update(keep)
        return losses


def average_share(count: int) -> float:
    """Return the share of the newest of `count` values in their bias-corrected average."""
    return (1 - AVERAGE_DECAY) / (1 - AVERAGE_DECAY**count)


@torch.no_grad()
def keep_positive(student: Network) -> None:
    """Clamp every range to above 0."""
    for quantiser in quantisers_of(student).values():
        quantiser.alpha.clamp_(min=SMALLEST_ALPHA)
