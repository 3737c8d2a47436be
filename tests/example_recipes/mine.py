"""Edges as the teacher's: L = L1(S, y) + λ·L1(∇S, ∇T), with ∇ the Sobel filters."""

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch.nn import functional as F

from srkd import PlainMethod

SOBEL = torch.tensor([[1.0, 0.0, -1.0], [2.0, 0.0, -2.0], [1.0, 0.0, -1.0]])


def edges(image):
    filters = torch.stack([SOBEL, SOBEL.T])[:, None].repeat(3, 1, 1, 1)
    return F.conv2d(image, filters.to(image), groups=3)


@dataclass(frozen=True)
class SobelKD(PlainMethod):
    lam: Annotated[float, Field(ge=0, description="weight of the edges")] = 0.1

    @property
    def weights(self):
        return {"pixel": 1.0, "edges": self.lam}

    def terms(self, step):
        sr, target = step.student().sr, step.teacher().sr
        return {"pixel": F.l1_loss(sr, step.hr), "edges": F.l1_loss(edges(sr), edges(target))}
