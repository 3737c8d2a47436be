"""Inherit + L1: the student starts as a slice of the trained teacher, then trains on the pixel loss alone.

    S ← slice(T, width, depth), a detached copy;  L = L1(S(x), y)

It isolates what initialisation gives from what distillation adds: in a user's run of CSD's code (CSD issue #9) it
explains 0.23 of the 0.27 dB that CSD gains on Urban100. Before training the slice is no working network (about 14 dB
on Set5 at width 0.25), so a first loss above that of a random student is normal.
"""

from __future__ import annotations

from dataclasses import dataclass

from recipes.scratch import Scratch


@dataclass(frozen=True)
class Inherit(Scratch):
    """The loss of scratch; that the student is a slice of the teacher is the recipe's student rule."""

    name: str = "inherit"
