"""FAKD: the similarity of any two positions in the student's features, as in the teacher's.

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
from recipes.features import FeatureMethod, Shape
from recipes.terms.affinity import MEMORY_BOUND_BYTES, affinity_bytes, affinity_l1

CODE_TAPS: Mapping[tuple[str, int], tuple[str, str]] = {("rcan", 10): ("body[2]", "body[6]")}
"""The first two taps of the networks whose taps the paper's code names by number, by network and number of blocks."""
MIB = 2**20


@dataclass(frozen=True)
class FAKD(FeatureMethod):
    alpha: Annotated[float, Field(ge=0, le=1, description="share of the teacher's image in the L1 to images")] = 0.5
    beta: Annotated[float, Field(ge=0, description="weight of the affinities, for images in [0,1]")] = 10 / 255
    memory_mb: Annotated[
        int, Field(ge=1, description="MiB for the rows of an affinity; fewer are slower, the result is the same")
    ] = MEMORY_BOUND_BYTES // MIB
    name: str = "fakd"
    term: ClassVar[str] = "affinity"

    @property
    def weights(self) -> Mapping[str, float]:
        return {"pixel": 1.0 - self.alpha, self.image_term: self.alpha, "affinity": self.beta}

    def usual_taps(self, network: Network) -> tuple[str, ...]:
        blocks = sum(name.startswith("body[") for name in network.taps)
        first_two = CODE_TAPS.get((network.spec.arch, blocks))
        return super().usual_taps(network) if first_two is None else (*first_two, self.last)

    def terms(self, step: Step) -> dict[str, torch.Tensor]:
        forward = self.run_networks(step)
        gate = self.gate_values(step, forward.student, forward.teacher)
        distances = [affinity_l1(*pair, memory_bound_bytes=self.memory_mb * MIB) for pair in forward.features]
        return {
            "pixel": F.l1_loss(forward.student, step.hr),
            self.image_term: self.image_loss(gate, forward.student, forward.teacher),
            "affinity": (gate * torch.stack(distances)).mean(1).sum(),
        }

    def bytes_of(self, student: Shape, teacher: Shape, processes: int) -> int:
        positions = student[2] * student[3]
        bound = self.memory_mb * MIB
        return affinity_bytes(student[0], positions, student[1], teacher[1], memory_bound_bytes=bound)
