"""Scratch: the student alone, pixel loss; the reference line of every table.

    L = L1(S(x), y)

Source: every table of the field (e.g. DUKD, table 2, rows 'Scratch'). L1 is the mean over all elements.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch.nn import functional as F

from compressor.training.method import PlainMethod
from compressor.training.step import Step


@dataclass(frozen=True)
class Scratch(PlainMethod):
    """Pixel L1 to the ground truth."""

    weights: Mapping[str, float] = field(default_factory=lambda: {"pixel": 1.0})
    name: str = "scratch"

    def terms(self, step: Step) -> dict[str, torch.Tensor]:
        return {"pixel": F.l1_loss(step.student().sr, step.hr)}
