"""FACD-style: features near the teacher's of the same patch and far from those of others, where the teacher is better.

    L = L1(S, y) + 1/B Σ_i a_i·(κ·L1(S_i, sg T_i) + λ·ℓ_i),   ℓ, a: recipes/terms/contrast.py

[choice] FACD's abstract (Moon et al.) and one figure reached us: features contrasted at three taps, the third
before the global skip; other patches as negatives; a block on the student's side; distillation chosen by the patch.
The formula, λ, the number of negatives and the rule of the gate are ours, as three switches: `form`, `gate`, `lam`.
Without `lam`, λ·ℓ before the gate begins as a fifth of the pixel loss; λ is about 0.06 in [0,1] for 16 patches. κ = 1.

Negatives are the other patches of the whole batch, over all processes. The gate's fraction is logged as
`seen/gate_open`: where it is 0, the method is scratch. The soft gate divides by the running deviation of the gap
between the errors, which is kept with the modules and so outlives a resumed run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F

from compressor.models.networks.base import Network
from compressor.training.method import Calibrated
from compressor.training.step import Step
from recipes.feature_taps import FeatureMethod, Share, learned, regressors
from recipes.gating import GATE
from recipes.tap_check import Shape
from recipes.terms.contrast import Form, Gate, contrast
from recipes.terms.distances import pairwise_bytes, widen


@dataclass(frozen=True)
class FACD(FeatureMethod):
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
        # Before the gate: λ does not depend on how many patches it lets through in the first steps.
        lam = Calibrated(self.share, by="ungated_contrast") if self.lam is None else self.lam
        return {"pixel": 1.0, self.image_term: self.kappa, "patch_contrast": lam}

    def modules(self, teacher: Network | None, student: Network) -> nn.ModuleDict:
        return nn.ModuleDict({"regressors": regressors(self, teacher, student), **super().modules(teacher, student)})

    def terms(self, step: Step) -> dict[str, torch.Tensor]:
        seen = self.matched(step)
        pairs = zip(learned(step, self), seen.features, strict=True)
        ours = [regressor(widen(feature)) for regressor, (feature, _) in pairs]
        theirs = [step.everyone(feature) for _, feature in seen.features]
        apart = contrast(ours, theirs, self.form, first=step.samples.start)
        step.observe("ungated_contrast", apart.mean())
        opened = self.opened(step, seen.student, seen.teacher)
        return {
            "pixel": F.l1_loss(seen.student, step.hr),
            self.image_term: self.image_loss(opened, seen.student, seen.teacher),
            "patch_contrast": (opened * apart).mean(),
        }

    def bytes_of(self, student: Shape, teacher: Shape, processes: int) -> int:
        """The regressed features, the teacher's of all processes, and their distances or, pooled, one gradient."""
        elements = student[0] * teacher[1] * student[2] * student[3]
        others = elements * processes
        gathered = 4 * others if processes > 1 else 0
        between = pairwise_bytes(elements, others, half=False) if self.form == "ratio" else 4 * elements
        return 4 * elements + gathered + between
