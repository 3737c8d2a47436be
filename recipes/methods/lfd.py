"""LFD-style: features regressed by 1×1 convolutions, with more weight at positions with a larger error.

    L = L1(S, y) + κ·L1(S, sg T) + λ·Σ_l d_l
    g = |r(F_S) - sg F_T|,   a = mean_c g,   m = sg(a / mean_hw a) of each sample,   n = sg mean|F_T|
    d = mean(m ⊙ g) / n

[choice] The name follows CLSD's table; taps, form and weight are ours (docs/methods/lfd.md). n is that of the whole
batch over all processes. Where a sample has no error m is 0, and a teacher map of zeros counts with n = 1e-8.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch.nn import functional as F

from compressor.training.calibration import Calibrated
from compressor.training.step import Step
from recipes.terms.distances import widen
from recipes.terms.features import RegressedFeatureMethod, Share
from recipes.terms.gating import Gated

MIN_LEVEL = 1e-8


@dataclass(frozen=True)
class LFD(RegressedFeatureMethod, Gated):
    lam: Annotated[float | None, Field(ge=0, description="weight of the features; none: calibrated")] = None
    share: Share = 0.2
    kappa: Annotated[float, Field(ge=0, description="weight of the teacher's image")] = 0.0
    name: str = "lfd"
    term: ClassVar[str] = "matching"

    @property
    def weights(self) -> Mapping[str, float | Calibrated]:
        image = {self.image_term: self.kappa} if self.kappa else {}
        # Measured before the gate: λ does not depend on how many patches pass it in the first steps.
        calibrated = Calibrated(self.share, by=None if self.gate == "off" else "ungated_matching")
        return {"pixel": 1.0, **image, "matching": calibrated if self.lam is None else self.lam}

    def terms(self, step: Step) -> dict[str, torch.Tensor]:
        forward = self.run_networks(step)
        by_tap = []
        for regressed, target in self.regress(step, forward):
            level = step.all_gather(widen(target).abs().flatten(1).mean(1)).mean()
            by_tap.append(attended_distance(regressed, target, level))
        distances, gate = torch.stack(by_tap).sum(0), self.gate_values(step, forward.student, forward.teacher)
        if self.gate != "off":
            step.observe("ungated_matching", distances.mean())
        image = {self.image_term: self.image_loss(gate, forward.student, forward.teacher)} if self.kappa else {}
        return {"pixel": F.l1_loss(forward.student, step.hr), **image, "matching": (gate * distances).mean()}


def attention(error: torch.Tensor) -> torch.Tensor:
    """Return m, (B,1,h,w): each position's error over the sample's mean error, without gradient."""
    by_position = error.detach().mean(1, keepdim=True)
    mean = by_position.mean((2, 3), keepdim=True)
    return by_position / mean.clamp_min(torch.finfo(mean.dtype).tiny)


def attended_distance(
    regressed: torch.Tensor, teacher: torch.Tensor, level: torch.Tensor | None = None
) -> torch.Tensor:
    """Return d of each sample, (B,); n is that of the whole batch, so that the mean over samples is the batch's d.

    `level` is n if the batch is larger than these samples.
    """
    target = widen(teacher.detach())
    error = (widen(regressed) - target).abs()
    level = target.abs().mean() if level is None else level
    return (attention(error) * error).flatten(1).mean(1) / level.clamp_min(MIN_LEVEL)
