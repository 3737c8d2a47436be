"""FAKD's spatial affinity: the similarity of the features at any two positions, whatever the number of channels.

    f̂ = f / (‖f‖ over channels + 1e-8),   A(F) = f̂ᵀ f̂   (B,N,N), N = h·w,   d(F, G) = mean |A(F) - A(G)|

He et al., FAKD (ICIP 2020); code followed: Vincent-Hoo/Knowledge-Distillation-for-Super-resolution,
code/feature_transformation.py (spatial_similarity), code/loss.py. A method sums d over its taps and does not divide.

- The epsilon is added to the norm, it does not stand inside the square root.
- Official gradients are NaN where all channels of a position are zero; here the gradient of such a position is 0.
- Paper and code keep A whole: 324 MiB a map for 16 patches of 48×48. Here A exists a few rows at a time. A is
  symmetric, so one product of signs gives a row's gradient, made in the same pass as the value: nothing is kept and
  nothing is computed twice.
- DUKD's copy of this loss rebuilds it from numbers and so has no gradient at all; it is not followed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from compressor.base.errors import UsageError
from recipes.terms.distances import full_precision, widen

EPS = 1e-8
MEMORY_BOUND_BYTES = 256 * 2**20
"""The most memory for the rows of A that exist at one time."""
TENSORS_AT_ONCE = 2
"""Copies of those rows that exist at one time: the differences, and the ones that their sum needs."""


def unit_columns(feature: torch.Tensor) -> torch.Tensor:
    """Return f̂ of (B,C,h,w) as (B,C,N); a position whose channels are all zero stays zero and gets no gradient."""
    flat = widen(feature).flatten(2)
    norm = torch.linalg.vector_norm(flat, dim=1, keepdim=True)
    return torch.where(norm > 0, flat / (norm + EPS), 0.0)


def affinity(feature: torch.Tensor) -> torch.Tensor:
    """Return A(F) whole, as the formula has it: for small maps."""
    with full_precision(feature):
        unit = unit_columns(feature)
        return unit.transpose(1, 2) @ unit


def affinity_l1(
    student: torch.Tensor, teacher: torch.Tensor, *, memory_bound_bytes: int = MEMORY_BOUND_BYTES
) -> torch.Tensor:
    """Return d(student, teacher) of each sample, (B,), whose mean is FAKD's term at one tap.

    The teacher gets no gradient.
    """
    if student.shape[0] != teacher.shape[0] or student.shape[-2:] != teacher.shape[-2:]:
        raise UsageError(
            f"affinities need maps of equal size: the student's is {tuple(student.shape)}, the teacher's "
            f"{tuple(teacher.shape)} (N,C,h,w): choose other taps"
        )
    positions = student.shape[-2] * student.shape[-1]
    rows = rows_within(memory_bound_bytes, student.shape[0], positions)
    with full_precision(student):
        columns = unit_columns(student), unit_columns(teacher.detach())
        distances: torch.Tensor = _AffinityL1.apply(*columns, rows)  # type: ignore[no-untyped-call]
    return distances


def rows_within(memory_bound_bytes: int, batch: int, positions: int) -> int:
    """Return the number of rows of A that fit into the bound, at least one."""
    row_bytes = TENSORS_AT_ONCE * 4 * batch * positions
    return min(positions, max(1, memory_bound_bytes // row_bytes))


def affinity_bytes(
    batch: int,
    positions: int,
    student_channels: int,
    teacher_channels: int,
    *,
    memory_bound_bytes: int = MEMORY_BOUND_BYTES,
) -> int:
    """Return the most memory of one tap beside its features: rows of A, f̂ of both sides, the student's gradient.

    The fp32 copies of features of half precision are counted too.
    """
    rows = rows_within(memory_bound_bytes, batch, positions)
    maps = 4 * batch * positions * (3 * student_channels + 2 * teacher_channels)
    return TENSORS_AT_ONCE * 4 * batch * rows * positions + maps


class _AffinityL1(torch.autograd.Function):
    """The mean |SᵀS - TᵀT| of each sample, rows at a time; d/dS = 2·S·sign(SᵀS - TᵀT) / N²."""

    @staticmethod
    def forward(ctx: Any, student: torch.Tensor, teacher: torch.Tensor, rows: int) -> torch.Tensor:
        positions = student.shape[2]
        total = student.new_zeros(student.shape[0])
        gradient = torch.empty_like(student) if ctx.needs_input_grad[0] else None
        for start in range(0, positions, rows):
            part = slice(start, start + rows)
            difference = student[:, :, part].transpose(1, 2) @ student
            difference.baddbmm_(teacher[:, :, part].transpose(1, 2), teacher, alpha=-1)
            total += difference.abs().sum(2).sum(1)
            if gradient is not None:
                gradient[:, :, part] = student @ difference.sign_().transpose(1, 2)
        if gradient is not None:
            ctx.save_for_backward(gradient.mul_(2 / positions**2))
        return total / positions**2

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (gradient,) = ctx.saved_tensors
        return gradient * upstream[:, None, None], None, None
