"""The rule by which a gain is called a gain: paired differences over seeds against their own spread."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["better", "worse", "no difference", "spread unknown"]

DEVIATIONS = 2.0
"""A mean difference below this many standard deviations is none."""
RESOLUTION = 0.0005
"""dB: a difference that three digits do not show is none, whatever its spread."""


@dataclass(frozen=True)
class Spread:
    """A mean, and the standard deviation over seeds (n-1) where there are at least two."""

    mean: float
    sd: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        if not values:
            raise ValueError("no values have no mean")
        mean = math.fsum(values) / len(values)
        if len(values) < 2:
            return cls(mean, None)
        return cls(mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)))

    def __str__(self) -> str:
        return f"{self.mean:.3f}" + ("" if self.sd is None else f" ± {self.sd:.3f}")


@dataclass(frozen=True)
class Gain:
    """What a recipe adds over a baseline, in dB: one difference a seed, both runs on the same batches."""

    over: str
    differences: tuple[float, ...]
    mean: float
    sd: float | None
    verdict: Verdict

    @classmethod
    def between(cls, over: str, ours: Sequence[float], theirs: Sequence[float]) -> Gain:
        """`ours` and `theirs` in the same order of seeds."""
        differences = tuple(a - b for a, b in zip(ours, theirs, strict=True))
        spread = Spread.of(differences)
        return cls(over, differences, spread.mean, spread.sd, _verdict(spread))

    def line(self) -> str:
        """For a person: the gain, or that there is none."""
        name = f"gain over {self.over}"
        if self.sd is None:
            return f"{name}: {self.mean:+.3f} dB (one seed, spread unknown: --seeds 3)"
        figures = f"{self.mean:+.3f} ± {self.sd:.3f} dB"
        seeds = f"{len(self.differences)} seeds"
        if self.verdict == "no difference":
            return f"{name}: no difference ({figures}, {seeds})"
        return f"{name}: {figures} ({'worse, ' if self.verdict == 'worse' else ''}{seeds})"


def _verdict(spread: Spread) -> Verdict:
    if spread.sd is None:
        return "spread unknown"
    if abs(spread.mean) < max(DEVIATIONS * spread.sd, RESOLUTION):
        return "no difference"
    return "better" if spread.mean > 0 else "worse"
