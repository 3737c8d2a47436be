"""Weights without a published value: 0 in the first steps of a run, and then λ = ρ·U/R for good.

U is the mean pixel term and R the mean raw term of those steps, so that the term starts with the share ρ of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from compressor.base.errors import SrkdError

MAX_CALIBRATION_STEPS = 100
"""The most steps of calibration; runs of under ten times as many steps use a tenth of theirs."""


@dataclass(frozen=True)
class Calibrated:
    """A calibrated weight: the term's share of the term `against` at the end of calibration."""

    share: float = 0.2
    against: str = "pixel"
    by: str | None = None
    """The observed number used instead of the term, such as a gated term before its gate."""


Weights: TypeAlias = Mapping[str, float | Calibrated]
"""The weights of the terms by name."""

Blend: TypeAlias = float | Mapping[str, float]
"""The factor of the whole loss of each method, or of methods by name; it is 1 for the others."""


def scaled_weight(weight: float | Calibrated, factor: float) -> float | Calibrated:
    """Return a weight times a number; of a calibrated one, the share."""
    return replace(weight, share=factor * weight.share) if isinstance(weight, Calibrated) else factor * weight


def added_weights(first: float | Calibrated, second: float | Calibrated) -> float | Calibrated | None:
    """Return the sum of two weights; None for a number and a share, or shares of different terms."""
    if not isinstance(first, Calibrated) and not isinstance(second, Calibrated):
        return first + second
    if not isinstance(first, Calibrated) or not isinstance(second, Calibrated):
        return None
    is_alike = (first.against, first.by) == (second.against, second.by)
    return replace(first, share=first.share + second.share) if is_alike else None


def calibration_steps(steps: int) -> int:
    return max(1, min(MAX_CALIBRATION_STEPS, steps // 10))


@dataclass
class TermCalibration:
    """The sums of raw terms over `count` good steps, and the weights calibrated from them; part of the state."""

    weights: dict[str, float] = field(default_factory=dict)
    sums: dict[str, float] = field(default_factory=dict)
    count: int = 0

    def resolve(self, weights: Weights) -> dict[str, float]:
        """Return a number for every term: 0 for one whose calibration is not finished."""
        return {
            name: self.weights.get(name, 0.0) if isinstance(weight, Calibrated) else weight
            for name, weight in weights.items()
        }

    def pending(self, weights: Weights) -> dict[str, Calibrated]:
        return {
            name: weight
            for name, weight in weights.items()
            if isinstance(weight, Calibrated) and name not in self.weights
        }

    def update(self, raw: Mapping[str, float], weights: Weights, *, steps: int) -> dict[str, float]:
        """Count a good step; after `steps` of them compute the weights, and return the new ones."""
        for name, value in raw.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.count += 1
        if self.count < steps:
            return {}
        new = {name: self._weight(name, weight) for name, weight in self.pending(weights).items()}
        self.weights.update(new)
        return new

    def _weight(self, name: str, weight: Calibrated) -> float:
        reference = self.sums.get(weight.against)
        if reference is None:
            raise SrkdError(f"the weight of {name} is calibrated against {weight.against}, and no term has that name")
        total = self.sums[weight.by or name]
        if total <= 0:
            raise SrkdError(
                f"the weight of {name} cannot be calibrated: the term was {total / self.count:g} on average "
                f"over {self.count} steps, as of a student that already equals its teacher; give its weight (--set, "
                "under the name on the method's page)"
            )
        return weight.share * reference / total

    def state_dict(self) -> dict[str, Any]:
        # These keys are part of the format of saved states.
        return {"found": dict(self.weights), "sums": dict(self.sums), "seen": self.count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.weights, self.sums, self.count = dict(state["found"]), dict(state["sums"]), int(state["seen"])
