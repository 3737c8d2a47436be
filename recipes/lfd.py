"""LFD-style: features regressed by 1×1 convolutions, with more weight where the student is farther off.

    L = L1(S, y) + κ·L1(S, sg T) + λ·Σ_l mean(m_l ⊙ g_l)/n_l
    g = |r(F_S) - sg F_T|,   m = sg(mean_c g / mean_hw mean_c g) of each sample,   n = sg mean|F_T|

[choice] The name follows the "LFD" rows of CLSD's table; LFD's own paper is not among our sources, so taps, form and
weight are ours. κ = 0. λ is calibrated: the term begins with a fifth of the pixel loss; about 0.003 in [0,1].
n is that of the whole batch over all processes, so that several give what one gives. `gate` lets features and image
through by the patch (gating.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F

from compressor.models.networks.base import Network
from compressor.training.method import Calibrated
from compressor.training.step import Step
from recipes.feature_taps import FeatureMethod, Share, learned, regressors
from recipes.tap_check import Shape
from recipes.terms.distances import widen
from recipes.terms.matching import attended_bytes, attended_distance


@dataclass(frozen=True)
class LFD(FeatureMethod):
    lam: Annotated[float | None, Field(ge=0, description="weight of the features; none: calibrated")] = None
    share: Share = 0.2
    kappa: Annotated[float, Field(ge=0, description="weight of the teacher's image")] = 0.0
    name: str = "lfd"
    term: ClassVar[str] = "matching"

    @property
    def weights(self) -> Mapping[str, float | Calibrated]:
        image = {self.image_term: self.kappa} if self.kappa else {}
        # Before the gate: λ does not depend on how many patches it lets through in the first steps.
        calibrated = Calibrated(self.share, by=None if self.gate == "off" else "ungated_matching")
        return {"pixel": 1.0, **image, "matching": calibrated if self.lam is None else self.lam}

    def modules(self, teacher: Network | None, student: Network) -> nn.ModuleDict:
        return nn.ModuleDict({"regressors": regressors(self, teacher, student), **super().modules(teacher, student)})

    def terms(self, step: Step) -> dict[str, torch.Tensor]:
        seen = self.matched(step)
        found = []
        for regressor, (ours, theirs) in zip(learned(step, self), seen.features, strict=True):
            level = step.everyone(widen(theirs).abs().flatten(1).mean(1)).mean()
            # The features may be of half precision, the weights of the regressor are not.
            found.append(attended_distance(regressor(widen(ours)), theirs, level))
        apart, opened = torch.stack(found).sum(0), self.opened(step, seen.student, seen.teacher)
        if self.gate != "off":
            step.observe("ungated_matching", apart.mean())
        image = {self.image_term: self.image_loss(opened, seen.student, seen.teacher)} if self.kappa else {}
        return {"pixel": F.l1_loss(seen.student, step.hr), **image, "matching": (opened * apart).mean()}

    def bytes_of(self, student: Shape, teacher: Shape, processes: int) -> int:
        """The regressed features and what is made of them; the student's own once more where they were widened."""
        elements = student[0] * teacher[1] * student[2] * student[3]
        return 4 * elements + attended_bytes(elements)
