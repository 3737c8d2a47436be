"""CSD-lite: CSD's contrastive ratio with a frozen teacher, for two models that share no weights.

    L = L1(S, y) + λ_C·Σ_j v_j·D_j
    D_j = mean|φ_j(sg T) - φ_j(S)| / (mean Σ_k |φ_j(N_k) - φ_j(S)| + 1e-7)

The ratio and its details: recipes/terms/ratio.py; φ: recipes/terms/perceptual.py. This variant is ours:
λ_T·L1(T, y) is dropped, as T does not learn. Any teacher that gives outputs will do, unless φ is made of its first
blocks. λ_C = 200 for images in [0,255] is 0.784314 here; VGG-19 is fed 255·image all the same.

Means run over the whole batch, of all processes, before the division. K negatives are drawn of it; a smaller batch
gives all it has, and the term is larger by K/B, being a ratio to a sum over negatives. `compat: csd` takes the first K.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch.nn import functional as F

from compressor.data.batches import View
from compressor.training.step import Step
from recipes.catalogue import TeacherNeeds
from recipes.composition import Kind
from recipes.phi import ContrastsThroughPhi

CSD_WEIGHT = 0.784314


@dataclass(frozen=True)
class CsdLite(ContrastsThroughPhi):
    lam: Annotated[float, Field(ge=0, description="weight of the contrast; 200 for images in [0,255]")] = CSD_WEIGHT
    name: str = "csd-lite"
    kind: Kind = "contrast"
    teacher_views: tuple[View, ...] = ("whole",)

    @property
    def teacher_needs(self) -> TeacherNeeds:
        """A φ made of the teacher's first blocks needs its network; VGG-19 needs its outputs only."""
        return "network" if self.uses_teacher_blocks else "outputs"

    @property
    def weights(self) -> Mapping[str, float]:
        return {"pixel": 1.0, "contrast": self.lam}

    def terms(self, step: Step) -> dict[str, torch.Tensor]:
        sr = step.student().sr
        return {"pixel": F.l1_loss(sr, step.hr), "contrast": self.contrast(step, [sr], step.teacher().sr)}
