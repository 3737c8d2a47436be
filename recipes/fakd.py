"""FAKD: how alike any two positions are in the student's features, as in the teacher's.

    L = (1 - α)·L1(S, y) + α·L1(S, sg T) + β·Σ_l L1(A(F_S), A(sg F_T)),   A(F) = f̂ᵀf̂,   f̂ = f / (‖f‖ + 1e-8)

He et al., FAKD (ICIP 2020); code followed: Vincent-Hoo/Knowledge-Distillation-for-Super-resolution, code/loss.py,
feature_transformation.py, models/edsr.py, models/rcan.py. α = 0.5; β = 10 for images in [0,255], 10/255 in [0,1]. The
term is summed over taps, not averaged. A has no channels, so that student and teacher may differ in width and in kind.

Three taps. EDSR and the rest: rel(1/3), rel(2/3), pre_up; RCAN of ten groups: body[2], body[6], pre_up, as its code
has them. The paper's figure draws the third before the global skip; its code adds the skip in place and so compares
after it: `taps=[rel(1/3), rel(2/3), body_end]` is the figure. DUKD's copy, which has no gradient, is not followed.
`gate` lets what is learnt of the teacher, image and affinities, through by the patch (gating.py); off as published.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch.nn import functional as F

from compressor.models.networks.base import Network
from compressor.training.step import Step
from recipes.feature_taps import FeatureMethod
from recipes.tap_check import Shape
from recipes.terms.affinity import MEMORY_BOUND_BYTES, affinity_bytes, affinity_l1

RCAN_GROUPS = 10
"""The RCAN of the paper, whose taps its code names by number."""
MIB = 2**20


@dataclass(frozen=True)
class FAKD(FeatureMethod):
    alpha: Annotated[float, Field(ge=0, le=1, description="share of the teacher's image in the L1 to images")] = 0.5
    beta: Annotated[float, Field(ge=0, description="weight of the affinities, for images in [0,1]")] = 10 / 255
    memory_mb: Annotated[
        int, Field(ge=1, description="MiB that the rows of an affinity may take; fewer are slower, the result is one")
    ] = MEMORY_BOUND_BYTES // MIB
    name: str = "fakd"
    term: ClassVar[str] = "affinity"

    @property
    def weights(self) -> Mapping[str, float]:
        return {"pixel": 1.0 - self.alpha, self.image_term: self.alpha, "affinity": self.beta}

    def usual_taps(self, network: Network) -> tuple[str, ...]:
        if network.spec.arch == "rcan" and getattr(network.spec, "groups", 0) == RCAN_GROUPS:
            return ("body[2]", "body[6]", self.last)
        return super().usual_taps(network)

    def terms(self, step: Step) -> dict[str, torch.Tensor]:
        seen = self.matched(step)
        opened = self.opened(step, seen.student, seen.teacher)
        distances = [affinity_l1(*pair, memory_bound_bytes=self.memory_mb * MIB) for pair in seen.features]
        return {
            "pixel": F.l1_loss(seen.student, step.hr),
            self.image_term: self.image_loss(opened, seen.student, seen.teacher),
            "affinity": (opened * torch.stack(distances)).mean(1).sum(),
        }

    def bytes_of(self, student: Shape, teacher: Shape, processes: int) -> int:
        positions = student[2] * student[3]
        bound = self.memory_mb * MIB
        return affinity_bytes(student[0], positions, student[1], teacher[1], memory_bound_bytes=bound)
