"""Scratch and inherit: the student alone with the pixel loss; the reference rows of every table.

    scratch   L = L1(S(x), y), from random weights
    inherit   S ← slice(T, width, depth), a detached copy of the trained teacher's weights; then the same loss

Source: every table of the field (e.g. DUKD, table 2, rows 'Scratch'). L1 is the mean over all elements.

Inherit separates the gain of initialisation from that of distillation: in a user's run of CSD's code (CSD issue #9) it
explains 0.23 of the 0.27 dB that CSD gains on Urban100. Before training the slice is not a working network (about 14 dB
on Set5 at width 0.25), so a first loss above that of a random student is normal.
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


@dataclass(frozen=True)
class Inherit(Scratch):
    """The loss of scratch; the recipe's student rule makes the student a slice of the teacher."""

    name: str = "inherit"
