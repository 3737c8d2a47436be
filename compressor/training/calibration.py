"""Weights that nobody published: found in the first steps of a run, and frozen.

While it lasts, a term that is to be calibrated has weight 0. Then λ = ρ·U/R with U the mean pixel term and R the mean
raw term of those steps, so that the term begins with the share ρ of the pixel loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from compressor.errors import SrkdError

LONGEST = 100
"""Steps; a tenth of a short run."""


@dataclass(frozen=True)
class Calibrated:
    """In place of a number: the term's share of the term called `against` when training begins in earnest."""

    share: float = 0.2
    against: str = "pixel"
    by: str | None = None
    """What is measured in place of the term: a number that the method observes, as a gated term is before its gate."""


def calibration_steps(steps: int) -> int:
    return max(1, min(LONGEST, steps // 10))


@dataclass
class Calibration:
    """Sums of raw terms over the good steps seen, and the weights that were found; part of the state."""

    found: dict[str, float] = field(default_factory=dict)
    sums: dict[str, float] = field(default_factory=dict)
    seen: int = 0

    def weights(self, asked: Mapping[str, float | Calibrated]) -> dict[str, float]:
        """A number for every term: 0 for what is still being calibrated."""
        return {
            name: self.found.get(name, 0.0) if isinstance(weight, Calibrated) else weight
            for name, weight in asked.items()
        }

    def open(self, asked: Mapping[str, float | Calibrated]) -> bool:
        """Whether a weight is still to be found."""
        return any(isinstance(weight, Calibrated) and name not in self.found for name, weight in asked.items())

    def see(self, raw: Mapping[str, float], asked: Mapping[str, float | Calibrated], *, steps: int) -> dict[str, float]:
        """Count a good step; after `steps` of them the weights are set, and returned once."""
        for name, value in raw.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.seen += 1
        if self.seen < steps:
            return {}
        new = {
            name: self._weight(name, weight)
            for name, weight in asked.items()
            if isinstance(weight, Calibrated) and name not in self.found
        }
        self.found.update(new)
        return new

    def _weight(self, name: str, weight: Calibrated) -> float:
        reference = self.sums.get(weight.against)
        if reference is None:
            raise SrkdError(f"the weight of {name} is calibrated against {weight.against}, and no term has that name")
        found = self.sums[weight.by or name]
        if found <= 0:
            raise SrkdError(
                f"the weight of {name} cannot be calibrated: the term was {found / self.seen:g} on average "
                f"over {self.seen} steps; give its weight (--set lam=...)"
            )
        return weight.share * reference / found

    def state_dict(self) -> dict[str, Any]:
        return {"found": dict(self.found), "sums": dict(self.sums), "seen": self.seen}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.found, self.sums, self.seen = dict(state["found"]), dict(state["sums"]), int(state["seen"])
