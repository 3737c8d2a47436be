"""Scratch with a smooth L1.

    L = mean √((S(x) - y)² + ε²)

Source: Charbonnier et al. 1994; in super-resolution since LapSRN (ε = 1e-3).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

import torch
from pydantic import Field

from srkd import PlainMethod


@dataclass(frozen=True)
class Charbonnier(PlainMethod):
    eps: Annotated[float, Field(gt=0, description="below this a difference counts by its square")] = 1e-3
    name: str = "charbonnier"
    weights: Mapping[str, float] = field(default_factory=lambda: {"charbonnier": 1.0})

    def terms(self, step):
        return {"charbonnier": torch.sqrt((step.student().sr - step.hr) ** 2 + self.eps**2).mean()}
