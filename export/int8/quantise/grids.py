"""Grids of integers, and rounding to them with the least squared error.

    q = clip(round(x / scale) + zero_point, low, high),   x ≈ scale·(q - zero_point)

A value has one grid; a weight has one scale for each row (output channel) and no zero point.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

BINS = 2048
"""Number of bins of the histogram by which a range is chosen."""

SHARES = tuple(1 - 0.5 * step / 24 for step in range(25))
"""Shares of the full range that are tried for each end."""

CLIPPING = 30.0
"""Weight of the squared error of a clipped value, compared with a rounded one."""

DAMPING = 1e-2
"""Share of the mean diagonal of the inputs' covariance that is added to the diagonal before inversion."""


@dataclass(frozen=True)
class Levels:
    """A range of integers, unsigned or signed, of at most sixteen bits; symmetric ones have zero point 0."""

    low: int
    high: int
    symmetric: bool = False

    @property
    def signed(self) -> bool:
        return self.low < 0

    @property
    def bits(self) -> int:
        return (self.high - self.low).bit_length()


U8 = Levels(0, 255)
U16 = Levels(0, 65535)
S8 = Levels(-127, 127, symmetric=True)
S7 = Levels(-63, 63, symmetric=True)
"""Seven bits, for processors that add two products in sixteen bits, where 8 bits would overflow."""


@dataclass(frozen=True)
class Grid:
    """The grid of a value: scale, zero point and integers."""

    scale: float
    zero_point: int
    levels: Levels

    def round(self, values: torch.Tensor) -> torch.Tensor:
        """The nearest values on the grid; halves round to even, as in ONNX."""
        levels = (values / self.scale).round_().add_(self.zero_point).clamp_(self.levels.low, self.levels.high)
        return levels.sub_(self.zero_point).mul_(self.scale)


def choose_grid(values: torch.Tensor, levels: Levels) -> Grid:
    """The grid of least error for these values; rarely used ends of the range may be clipped.

    A clipping error counts `CLIPPING` times: rounding is noise that the next layer averages over its inputs, clipping
    is not.
    """
    low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
    if not high - low > 0:
        return Grid(1.0, 0, levels)
    # A subset of the values is enough.
    flat = values.flatten()
    counts = torch.histc(flat[:: max(1, len(flat) // 2**20)].float(), BINS, low, high).double()
    centres = low + (high - low) / BINS * (torch.arange(BINS, dtype=torch.float64) + 0.5)

    def error(below: float, above: float) -> float:
        return _error(_grid(below, above, levels), centres, counts)

    below, above = low, high
    for _ in range(2):  # optimise one end after the other, twice
        below = min((low * share for share in SHARES), key=lambda end: error(end, above))
        above = min((high * share for share in SHARES), key=lambda end: error(below, end))
    return _grid(below, above, levels)


def whole_range(low: float, high: float, levels: Levels) -> Grid:
    """The grid that holds zero and all values from `low` to `high`."""
    low, high = min(0.0, low), max(0.0, high)
    return _grid(low, high, levels) if high > low else Grid(1.0, 0, levels)


def image_grid(levels: Levels) -> Grid:
    """The grid of images in [0,1], on which the bytes of an image lie exactly."""
    return Grid(1 / levels.high, 0, levels)


def _grid(low: float, high: float, levels: Levels) -> Grid:
    if levels.symmetric:
        return Grid(_float32(max(-low, high) / levels.high), 0, levels)
    scale = _float32((high - low) / (levels.high - levels.low))
    return Grid(scale, round(levels.low - low / scale), levels)


def _float32(scale: float) -> float:
    return float(torch.tensor(scale, dtype=torch.float32))


def _error(grid: Grid, centres: torch.Tensor, counts: torch.Tensor) -> float:
    low, high = (grid.scale * (end - grid.zero_point) for end in (grid.levels.low, grid.levels.high))
    beyond = ((low - centres).clamp_min(0) + (centres - high).clamp_min(0)).square()
    return float((counts * torch.where(beyond > 0, CLIPPING * beyond, grid.scale**2 / 12)).sum())


def row_scales(weight: torch.Tensor, levels: Levels) -> torch.Tensor:
    """For each row of (rows, columns) the scale of least squared error."""
    largest = weight.abs().amax(1).clamp_min(1e-12)
    best, least = largest / levels.high, torch.full_like(largest, torch.inf)
    for share in SHARES:
        scales = largest * share / levels.high
        error = (round_rows(weight, scales, levels) * scales[:, None] - weight).square().sum(1)
        better = error < least
        best, least = torch.where(better, scales, best), torch.where(better, error, least)
    return best


def round_rows(weight: torch.Tensor, scales: torch.Tensor, levels: Levels) -> torch.Tensor:
    """Each weight in steps of its row's scale, rounded to an integer."""
    return (weight / scales[:, None]).round().clamp(levels.low, levels.high)


def round_with_feedback(
    weight: torch.Tensor, scales: torch.Tensor, covariance: torch.Tensor, levels: Levels
) -> torch.Tensor:
    """Return integers for (rows, columns); each column's rounding error is compensated in the columns not yet rounded.

    This comes near to the rounding that changes the layer's output least: Σ‖(W - Q)·x‖² with Σ x·xᵀ = `covariance`
    (Frantar et al., GPTQ, ICLR 2023; here without blocks, in float64).
    """
    mean = covariance.diagonal().mean()
    if not mean > 0:
        return round_rows(weight, scales, levels)
    size = len(covariance)
    order = torch.argsort(covariance.diagonal(), descending=True)
    ordered, unit = covariance[order][:, order], mean * torch.eye(size, dtype=covariance.dtype)
    # With nearly constant inputs, floating-point rounding may give negative eigenvalues, which need more damping.
    for damping in (DAMPING * 10**power for power in range(5)):
        upper, failed = torch.linalg.cholesky_ex(torch.linalg.inv_ex(ordered + damping * unit).inverse, upper=True)
        if not failed:
            break
    else:
        return round_rows(weight, scales, levels)
    left = weight[:, order].double().clone()
    integers = torch.empty_like(left)
    for column in range(size):
        integers[:, column] = (left[:, column] / scales).round().clamp(levels.low, levels.high)
        error = (left[:, column] - integers[:, column] * scales) / upper[column, column]
        left[:, column + 1 :] -= torch.outer(error, upper[column, column + 1 :])
    result = torch.empty_like(integers)
    result[:, order] = integers
    return result
