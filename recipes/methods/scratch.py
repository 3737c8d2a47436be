"""Scratch and inherit: the student alone with the pixel loss; the reference rows of every table.

    scratch   L = L1(S(x), y), from random weights
    inherit   S ← slice(T, width, depth), a detached copy of the trained teacher's weights; then the same loss

Source: every table of the field (e.g. DUKD, table 2, rows 'Scratch'). L1 is the mean over all elements.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch.nn import functional as F

from compressor.training.method import Method
from compressor.training.step import Step


@dataclass(frozen=True)
class Scratch(Method):
    """Pixel L1 to the ground truth."""

    weights: Mapping[str, float] = field(default_factory=lambda: {"pixel": 1.0})
    name: str = "scratch"

    def terms(self, step: Step) -> dict[str, torch.Tensor]:
        return {"pixel": F.l1_loss(step.student().sr, step.hr)}


@dataclass(frozen=True)
class Inherit(Scratch):
    """The loss of scratch; the recipe's student rule makes the student a slice of the teacher."""

    name: str = "inherit"
