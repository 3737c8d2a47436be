"""CLSD-style: deep supervision whose heads are also pulled to the label and pushed away from bicubic images, in φ.

    L = L1(S, y) + Σ_i [ w·L1(P_i, y) + λ·Σ_j v_j·D_j(P_i) ]
    D_j(P) = mean|φ_j(+) - φ_j(P)| / (mean Σ_k |φ_j(N_k) - φ_j(P)| + 1e-7),   + = y, or sg S

[choice] A reconstruction from CLSD's abstract and tables (docs/methods/clsd.md): heads as in ds.py, the ratio as in
contrast.py. At λ = 0 this is DS.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field

from compressor.training.calibration import Calibrated
from compressor.training.step import Step
from recipes.methods.ds import DeepSupervision
from recipes.terms.contrast import ContrastsThroughPhi


@dataclass(frozen=True)
class Clsd(DeepSupervision, ContrastsThroughPhi):
    """Deep supervision with a contrastive loss on the heads."""

    pos: Annotated[Literal["gt", "final"], Field(description="the positive: the label, or the student's image")] = "gt"
    lam: Annotated[
        float | None, Field(ge=0, description="λ, weight of the heads' contrast; none: calibrated to `rho`")
    ] = None
    rho: Annotated[float, Field(ge=0.1, le=0.3, description="share of the pixel loss that λ begins with")] = 0.2
    name: str = "clsd"

    @property
    def weights(self) -> Mapping[str, float | Calibrated]:
        contrast = Calibrated(self.rho) if self.lam is None else self.lam
        return {"pixel": 1.0, "heads": self.head_weight, "heads_contrast": contrast}

    def terms(self, step: Step) -> dict[str, torch.Tensor]:
        images = self.head_images(step)
        positive = step.hr if self.pos == "gt" else step.student().sr.detach()
        return {**self.supervised_losses(step, images), "heads_contrast": self.contrast(step, images, positive)}
