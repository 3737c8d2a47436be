"""Ridge regression from sums over batches; the ridge is chosen by the error on held-out patches.

With inputs x and the residual r of a layer with its initial weights W₀, b₀, the correction Δ, β minimises

    Σ w·‖r - Δ·x - β‖² + λ·d̄·‖Δ‖²

where w is the weight of a pixel and d̄ the mean diagonal of the inputs' covariance. The ridge pulls towards W₀, so that
nothing is lost where nothing is cut; the intercept β is free. Sums are in float64.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

RIDGES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Candidate values of λ; no correction at all is a candidate, too."""

ROUNDED = 1e-9
"""Precision of the errors, as a share of the initial error."""

AS_GOOD = 1.005
"""The largest ridge is chosen whose error is at most this multiple of the least: small ridges amplify rounding."""

BLOCKS = 3
"""Number of row blocks of Σ w·x·xᵀ, which is symmetric: only blocks on and above the diagonal are computed."""


class Sums:
    """Sums Σ w, Σ w·x, Σ w·r, Σ w·x·xᵀ, Σ w·r·xᵀ and Σ w·‖r‖² over pixels, in memory that does not grow with them."""

    def __init__(self, inputs: int, outputs: int, device: torch.device) -> None:
        self.count = torch.zeros((), dtype=torch.float64, device=device)
        self.x, self.r = (torch.zeros(size, dtype=torch.float64, device=device) for size in (inputs, outputs))
        self._upper = torch.zeros(inputs, inputs, dtype=torch.float64, device=device)
        self.rx = torch.zeros(outputs, inputs, dtype=torch.float64, device=device)
        self.rr = torch.zeros((), dtype=torch.float64, device=device)

    def add(self, x: torch.Tensor, r: torch.Tensor, weights: torch.Tensor) -> None:
        """Add pixels: (inputs, n), (outputs, n) and (n,), float32; products within one call are summed in float32."""
        roots = weights.sqrt()
        x, r = x * roots, r * roots
        self.count += weights.double().sum()
        self.x += (x @ roots).double()
        self.r += (r @ roots).double()
        start = 0
        for rows in x.chunk(BLOCKS):
            self._upper[start : start + len(rows), start:] += (rows @ x[start:].T).double()
            start += len(rows)
        self.rx += (r @ x.T).double()
        self.rr += r.double().square().sum()

    def error(self, slope: torch.Tensor, intercept: torch.Tensor) -> float:
        """Return the mean squared error of a correction on these pixels."""
        inner = self.r - slope @ self.x
        error = (
            self.rr
            - 2 * (slope * self.rx).sum()
            + ((slope @ self.xx) * slope).sum()
            - 2 * intercept @ inner
            + self.count * intercept @ intercept
        )
        return float(error / self.count)

    @property
    def parts(self) -> tuple[torch.Tensor, ...]:
        return self.count, self.x, self.r, self._upper, self.rx, self.rr

    @property
    def xx(self) -> torch.Tensor:
        return self._upper.triu() + self._upper.triu(1).T

    def plus(self, other: Sums) -> Sums:
        total = Sums(len(self.x), len(self.r), self.x.device)
        for total_sum, left, right in zip(total.parts, self.parts, other.parts, strict=True):
            total_sum.copy_(left + right)
        return total

    def solve(self, ridge: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Return slope and intercept for a ridge; constant or linearly dependent inputs are allowed."""
        covariance = self.xx - torch.outer(self.x, self.x) / self.count
        across = self.rx - torch.outer(self.r, self.x) / self.count
        slope = ridge_solution(covariance, across, ridge)
        return slope, (self.r - slope @ self.x) / self.count


def ridge_solution(second: torch.Tensor, across: torch.Tensor, ridge: float) -> torch.Tensor:
    """Return W (outputs, inputs) with W·(Σ x·xᵀ + λ·d̄·1) = Σ r·xᵀ, d̄ the mean diagonal; zero if all inputs are."""
    mean = second.diagonal().mean()
    if not mean > 0:
        return torch.zeros_like(across)
    loaded = second + ridge * mean * torch.eye(len(second), dtype=second.dtype, device=second.device)
    solution: torch.Tensor = torch.linalg.solve(loaded, across.T).T
    return solution


class Correction(NamedTuple):
    """A correction of a layer, zero if none improves the held-out pixels, and the mean squared error that it leaves
    on these."""

    slope: torch.Tensor
    intercept: torch.Tensor
    error_apart: float


def best_correction(fitted: Sums, apart: Sums) -> Correction:
    """Return the correction with the best ridge on the held-out pixels, solved on all pixels."""
    nothing = torch.zeros_like(fitted.rx), torch.zeros_like(fitted.r)
    errors = {ridge: apart.error(*fitted.solve(ridge)) for ridge in RIDGES}
    # The sums are rounded: an error far below the initial one may come out negative.
    before = float(apart.rr / apart.count)
    least = max(min(errors.values()), ROUNDED * before)
    if not least < apart.error(*nothing):
        return Correction(*nothing, before)
    ridge = max(ridge for ridge, error in errors.items() if error <= least * AS_GOOD)
    return Correction(*fitted.plus(apart).solve(ridge), errors[ridge])
