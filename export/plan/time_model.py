"""A model of time over width and depth, to propose shapes to measure: t = a0 + a1·w + a2·w² + d·(b1·w + b2·w²)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

SWEEPS = 200


@dataclass(frozen=True)
class TimeModel:
    """Factors of at least 0, and a correction for each measured width (chips compute in blocks of 8 or 16 channels)."""

    factors: NDArray[np.float64]
    by_width: dict[int, float] = field(default_factory=dict)

    @classmethod
    def of(cls, points: Sequence[tuple[int, int, float]]) -> TimeModel:
        """Fit (width, depth, milliseconds) by relative errors, as the times differ a thousandfold."""
        features = np.array([_features(width, depth) for width, depth, _ in points])
        times = np.array([ms for *_, ms in points])
        model = cls(_at_least_zero(features / times[:, None], np.ones(len(points))))
        by_width: dict[int, list[float]] = {}
        for width, depth, ms in points:
            by_width.setdefault(width, []).append(np.log(ms / model.ms(width, depth)))
        return cls(model.factors, {width: float(np.exp(np.mean(logs))) for width, logs in by_width.items()})

    def ms(self, width: int, depth: int) -> float:
        return max(float(_features(width, depth) @ self.factors), 1e-6) * self.by_width.get(width, 1.0)


def _features(width: int, depth: int) -> NDArray[np.float64]:
    return np.array([1.0, width, width**2, depth * width, depth * width**2])


def _at_least_zero(features: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """The least squares solution whose factors are all at least 0, by coordinate descent.

    A small ridge penalty keeps few points from putting all time into one factor.
    """
    scale = np.linalg.norm(features, axis=0)
    unit = features / scale
    gram, right = unit.T @ unit + 1e-3 * np.eye(unit.shape[1]), unit.T @ target
    factors = np.zeros(unit.shape[1])
    for _ in range(SWEEPS):
        for index in range(len(factors)):
            rest = right[index] - gram[index] @ factors + gram[index, index] * factors[index]
            factors[index] = max(0.0, rest / gram[index, index])
    return np.asarray(factors / scale)
