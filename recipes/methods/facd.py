"""FACD-style: features close to the teacher's of the same patch and far from other patches', if the teacher is better.

    L = L1(S, y) + 1/B Σ_i a_i·(κ·L1(S_i, sg T_i) + λ·ℓ_i),   a: gating.py
    ratio      ℓ_i = 1/J Σ_j d(u_ij, F_ij) / (Σ_{k≠i} d(u_ij, F_kj) + 1e-7),   d = mean |·|,   u = DR(F_S): conv 1×1
    infonce    ℓ_i = 1/J Σ_j -log( e^{s_ii/τ} / Σ_k e^{s_ik/τ} ),   s = cosine of u and F averaged over space, τ = 0.1

[choice] A reconstruction from FACD's abstract (Moon et al.) and one figure (docs/methods/facd.md). Negatives are the
other patches of the whole batch, over all processes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal, TypeAlias

import torch
from pydantic import Field
from torch.nn import functional as F

from compressor.training.calibration import Calibrated
from compressor.training.step import Step
from recipes.terms.distances import full_precision, pairwise_l1, widen
from recipes.terms.features import RegressedFeatureMethod, Share
from recipes.terms.gating import GATE, Gate, Gated

EPS = 1e-7
TEMPERATURE = 0.1
Form: TypeAlias = Literal["ratio", "infonce"]


@dataclass(frozen=True)
class FACD(RegressedFeatureMethod, Gated):
    form: Annotated[Form, Field(description="ratio of distances, or InfoNCE of pooled features")] = "ratio"
    gate: Annotated[Gate, GATE] = field(default="hard", kw_only=True)
    lam: Annotated[float | None, Field(ge=0, description="weight of the contrast; none: calibrated")] = None
    share: Share = 0.2
    kappa: Annotated[float, Field(ge=0, description="weight of the teacher's image")] = 1.0
    name: str = "facd"
    smallest_batch: int = 2
    term: ClassVar[str] = "patch_contrast"
    last: ClassVar[str] = "body_end"

    @property
    def weights(self) -> Mapping[str, float | Calibrated]:
        # Measured before the gate: λ does not depend on how many patches pass it in the first steps.
        lam = Calibrated(self.share, by="ungated_contrast") if self.lam is None else self.lam
        return {"pixel": 1.0, self.image_term: self.kappa, "patch_contrast": lam}

    def terms(self, step: Step) -> dict[str, torch.Tensor]:
        forward = self.run_networks(step)
        pairs = self.regress(step, forward)
        targets = [step.all_gather(target) for _, target in pairs]
        losses = contrast([u for u, _ in pairs], targets, self.form, first=step.samples.start)
        step.observe("ungated_contrast", losses.mean())
        gate = self.gate_values(step, forward.student, forward.teacher)
        return {
            "pixel": F.l1_loss(forward.student, step.hr),
            self.image_term: self.image_loss(gate, forward.student, forward.teacher),
            "patch_contrast": (gate * losses).mean(),
        }


def contrast(
    student: Sequence[torch.Tensor], teacher: Sequence[torch.Tensor], form: Form = "ratio", *, first: int = 0
) -> torch.Tensor:
    """Return ℓ of each of the student's samples, from its regressed features u and the teacher's, one tensor per tap.

    The teacher's may have more rows, those of other processes: the student's sample i is the teacher's first + i.
    """
    one_tap = ratio_form if form == "ratio" else infonce_form
    return torch.stack([one_tap(u, target, first) for u, target in zip(student, teacher, strict=True)]).mean(0)


def ratio_form(student: torch.Tensor, teacher: torch.Tensor, first: int) -> torch.Tensor:
    distances = pairwise_l1(student, teacher)
    positive = torch.zeros_like(distances, dtype=torch.bool)
    positive.diagonal(first).fill_(True)
    return distances.diagonal(first) / (distances.masked_fill(positive, 0.0).sum(1) + EPS)


def infonce_form(student: torch.Tensor, teacher: torch.Tensor, first: int) -> torch.Tensor:
    with full_precision(student):
        u, target = (F.normalize(widen(side).mean((2, 3)), dim=1) for side in (student, teacher.detach()))
        similarity = u @ target.T / TEMPERATURE
        return F.cross_entropy(similarity, first + torch.arange(len(u), device=u.device), reduction="none")
