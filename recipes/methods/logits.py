"""Logits KD: L1 to the ground truth and L1 to the teacher's output.

    form A   L = L1(S, y) + κ·L1(S, sg T)              DUKD, equations 1-2; κ = 1; the code's weights are 1 and 1
    form B   L = (1 - α)·L1(S, y) + α·L1(S, sg T)      FAKD, loss.py; α = 0.5

A with κ = 1 is twice B with α = 0.5: the same under Adam. The teacher gets the same augmented patch and its output is
not clipped. Known weakness: where S is between y and T the two gradients cancel; `gate` (gating.py) excludes the
patches on which the teacher is not better than the student.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch.nn import functional as F

from compressor.training.method import Kind
from compressor.training.step import Step
from recipes.terms.gating import Gated


@dataclass(frozen=True)
class Logits(Gated):
    form: Annotated[Literal["A", "B"], Field(description="which of the two sums of the method's page")] = "A"
    kappa: Annotated[float, Field(ge=0, description="weight of the teacher's image in form A")] = 1.0
    alpha: Annotated[float, Field(ge=0, le=1, description="weight of the teacher's image in form B")] = 0.5
    name: str = "logits"
    kind: Kind = "output"
    takes_outputs: bool = True

    @property
    def weights(self) -> Mapping[str, float]:
        if self.form == "A":
            return {"pixel": 1.0, self.image_term: self.kappa}
        return {"pixel": 1.0 - self.alpha, self.image_term: self.alpha}

    def terms(self, step: Step) -> dict[str, torch.Tensor]:
        sr, teacher = step.student().sr, step.teacher().sr
        gate = self.gate_values(step, sr, teacher)
        return {"pixel": F.l1_loss(sr, step.hr), self.image_term: self.image_loss(gate, sr, teacher)}
