"""Ridge regression from sums that grow batch by batch; the ridge is chosen by the error on patches kept apart.

A layer's correction Δ, β to the weights W₀, b₀ that it starts from minimises, with x its inputs and r what is missing
when it computes with W₀, b₀,

    Σ w·‖r - Δ·x - β‖² + λ·d̄·‖Δ‖²

w the weight of a pixel, d̄ the mean diagonal of the inputs' covariance. The ridge pulls towards W₀, so that nothing is
lost where nothing is cut; β, the intercept, is free. Sums are kept in float64.
"""

from __future__ import annotations

import torch

RIDGES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""λ: each is tried; so is no correction at all."""

ROUNDED = 1e-9
"""Errors are known to this share of what was missing."""

AS_GOOD = 1.005
"""The largest ridge is taken whose error is at most this many times the least: small ones amplify rounding."""

BLOCKS = 3
"""Σ w·x·xᵀ is symmetric: of so many blocks of rows only what is on and above the diagonal is multiplied."""


class Sums:
    """Σ w, Σ w·x, Σ w·r, Σ w·x·xᵀ, Σ w·r·xᵀ and Σ w·‖r‖² over pixels: memory does not depend on their number."""

    def __init__(self, inputs: int, outputs: int, device: torch.device) -> None:
        self.count = torch.zeros((), dtype=torch.float64, device=device)
        self.x, self.r = (torch.zeros(size, dtype=torch.float64, device=device) for size in (inputs, outputs))
        self._upper = torch.zeros(inputs, inputs, dtype=torch.float64, device=device)
        self.rx = torch.zeros(outputs, inputs, dtype=torch.float64, device=device)
        self.rr = torch.zeros((), dtype=torch.float64, device=device)

    def add(self, x: torch.Tensor, r: torch.Tensor, weights: torch.Tensor) -> None:
        """Add pixels: (inputs, n), (outputs, n) and (n,), float32; products of one call are summed in float32."""
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
        """Return the mean squared error that a correction leaves on these pixels."""
        inner = self.r - slope @ self.x
        left = (
            self.rr
            - 2 * (slope * self.rx).sum()
            + ((slope @ self.xx) * slope).sum()
            - 2 * intercept @ inner
            + self.count * intercept @ intercept
        )
        return float(left / self.count)

    @property
    def parts(self) -> tuple[torch.Tensor, ...]:
        return self.count, self.x, self.r, self._upper, self.rx, self.rr

    @property
    def xx(self) -> torch.Tensor:
        return self._upper.triu() + self._upper.triu(1).T

    def plus(self, other: Sums) -> Sums:
        total = Sums(len(self.x), len(self.r), self.x.device)
        for part, one, another in zip(total.parts, self.parts, other.parts, strict=True):
            part.copy_(one + another)
        return total

    def solve(self, ridge: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Return slope and intercept at a ridge; constant inputs, and inputs that depend on others, are no obstacle."""
        covariance = self.xx - torch.outer(self.x, self.x) / self.count
        across = self.rx - torch.outer(self.r, self.x) / self.count
        mean = covariance.diagonal().mean()
        if not mean > 0:
            slope = torch.zeros_like(across)
        else:
            loaded = covariance + ridge * mean * torch.eye(len(covariance), dtype=torch.float64, device=mean.device)
            slope = torch.linalg.solve(loaded, across.T).T
        return slope, (self.r - slope @ self.x) / self.count


def best_correction(fitted: Sums, apart: Sums) -> tuple[torch.Tensor, torch.Tensor, float | None]:
    """Return slope, intercept and ridge: a ridge that does best on the pixels kept apart, solved on all of them.

    The ridge is None where no correction does better than any.
    """
    nothing = torch.zeros_like(fitted.rx), torch.zeros_like(fitted.r)
    errors = {ridge: apart.error(*fitted.solve(ridge)) for ridge in RIDGES}
    # The sums are rounded: an error far below what was missing may come out negative.
    least = max(min(errors.values()), ROUNDED * float(apart.rr / apart.count))
    if not least < apart.error(*nothing):
        return (*nothing, None)
    ridge = max(ridge for ridge, error in errors.items() if error <= least * AS_GOOD)
    return (*fitted.plus(apart).solve(ridge), ridge)
