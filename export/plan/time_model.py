"""A model of time over width and depth, good enough to say where to look: t = a0 + a1·w + a2·w² + d·(b1·w + b2·w²)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

SWEEPS = 200


@dataclass(frozen=True)
class TimeModel:
    """Factors of at least 0, and by how much each measured width differs from them (blocks of 8 or 16 channels)."""

    factors: NDArray[np.float64]
    by_width: dict[int, float] = field(default_factory=dict)

    @classmethod
    def of(cls, points: Sequence[tuple[int, int, float]]) -> TimeModel:
        """Fit (width, depth, milliseconds): errors count as shares of the time, as the shapes differ a thousandfold."""
        features = np.array([_features(width, depth) for width, depth, _ in points])
        times = np.array([ms for *_, ms in points])
        model = cls(_at_least_zero(features / times[:, None], np.ones(len(points))))
        by_width: dict[int, list[float]] = {}
        for width, depth, ms in points:
            by_width.setdefault(width, []).append(np.log(ms / model.ms(width, depth)))
        return cls(model.factors, {width: float(np.exp(np.mean(logs))) for width, logs in by_width.items()})

    def ms(self, width: int, depth: int) -> float:
        """Return the milliseconds that a shape should take."""
        return max(float(_features(width, depth) @ self.factors), 1e-6) * self.by_width.get(width, 1.0)


def _features(width: int, depth: int) -> NDArray[np.float64]:
    return np.array([1.0, width, width**2, depth * width, depth * width**2])


def _at_least_zero(features: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the least squares solution whose factors are all at least 0, by coordinate descent.

    A little of each factor is paid for (a ridge), so that few points do not put all time into one of them.
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
