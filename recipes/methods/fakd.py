"""FAKD: the similarity of any two positions in the student's features, as in the teacher's.

    L = (1 - α)·L1(S, y) + α·L1(S, sg T) + β·Σ_l d(F_S, sg F_T),   d(F, G) = mean |A(F) - A(G)|
    A(F) = f̂ᵀ f̂   (B,N,N), N = h·w,   f̂ = f / (‖f‖ over channels + 1e-8)

He et al., FAKD (ICIP 2020); code followed: Vincent-Hoo/Knowledge-Distillation-for-Super-resolution, code/loss.py,
feature_transformation.py. α = 0.5; β = 10/255 for images in [0,1]. A is symmetric and never stored: a few rows of one
sample exist at a time, and the gradient is computed with the value. Where we differ: docs/methods/fakd.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from compressor.base.compute_device import ComputeDevice
from compressor.models.networks.base import Network
from compressor.training.step import Step
from recipes.config.published import published_options
from recipes.terms.distances import full_precision, widen
from recipes.terms.features import FeatureMethod
from recipes.terms.gating import Gated

EPS = 1e-8
BLOCK_BYTES = 2**20
"""Bytes of the rows of one sample's A that exist at one time, which fit into a core's second-level cache."""


@dataclass(frozen=True)
class FAKD(FeatureMethod, Gated):
    alpha: Annotated[float, Field(ge=0, le=1, description="share of the teacher's image in the L1 to images")] = 0.5
    beta: Annotated[float, Field(ge=0, description="weight of the affinities, for images in [0,1]")] = 10 / 255
    name: str = "fakd"
    term: ClassVar[str] = "affinity"

    @property
    def weights(self) -> Mapping[str, float]:
        return {"pixel": 1.0 - self.alpha, self.image_term: self.alpha, "affinity": self.beta}

    def usual_taps(self, network: Network) -> tuple[str, ...]:
        return published_options(self.name, network.spec).get("taps") or super().usual_taps(network)

    def terms(self, step: Step) -> dict[str, torch.Tensor]:
        forward = self.run_networks(step)
        gate = self.gate_values(step, forward.student, forward.teacher)
        distances = [affinity_l1(*pair) for pair in forward.features]
        return {
            "pixel": F.l1_loss(forward.student, step.hr),
            self.image_term: self.image_loss(gate, forward.student, forward.teacher),
            "affinity": (gate * torch.stack(distances)).mean(1).sum(),
        }


def unit_columns(feature: torch.Tensor) -> torch.Tensor:
    """Return f̂ of (B,C,h,w) as (B,C,N); a position with only zero channels stays zero and gets no gradient."""
    flat = widen(feature).flatten(2)
    norm = torch.linalg.vector_norm(flat, dim=1, keepdim=True)
    return torch.where(norm > 0, flat / (norm + EPS), 0.0)


def affinity_l1(student: torch.Tensor, teacher: torch.Tensor, *, block_bytes: int = BLOCK_BYTES) -> torch.Tensor:
    """Return d(student, teacher) of each sample, (B,), whose mean is FAKD's term at one tap.

    The teacher gets no gradient.
    """
    positions = student[0, 0].numel()
    rows = min(positions, max(1, block_bytes // (4 * positions)))
    with full_precision(student):
        columns = unit_columns(student), unit_columns(teacher.detach())
        distances: torch.Tensor = _AffinityL1.apply(*columns, rows)  # type: ignore[no-untyped-call]
    return distances


def distances_by_rows(student: torch.Tensor, teacher: torch.Tensor, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return d of each sample, (B,), for unit columns (B,C,N), `rows` of A at a time, and its gradient."""
    positions = student.shape[2]
    gradient = torch.zeros_like(student)
    # A GPU is efficient with large products, a CPU with blocks that stay in its cache.
    split = torch.unbind if ComputeDevice(student.device).is_cpu else lambda each: (each,)
    totals = []
    for columns, target, share in zip(*map(split, (student, teacher, gradient)), strict=True):
        # SᵀS - TᵀT as one product.
        left, right = torch.cat([columns, -target], -2).mT, torch.cat([columns, target], -2)
        total = columns.new_zeros(columns.shape[:-2])
        for start in range(0, positions, rows):
            block, after = slice(start, start + rows), slice(start + rows, None)
            difference = left[..., block, :] @ right[..., start:]
            square, beside = difference[..., :rows], difference[..., rows:]
            # The block right of the square also represents the block below it.
            total += 2 * difference.abs().sum((-2, -1)) - square.abs().sum((-2, -1))
            square.diagonal(dim1=-2, dim2=-1).zero_()
            difference.sign_()
            share[..., block] += columns[..., start:] @ difference.mT
            share[..., after] += columns[..., block] @ beside
        totals.append(total)
    return torch.stack(totals).flatten() / positions**2, gradient.mul_(2 / positions**2)


class _AffinityL1(torch.autograd.Function):
    """The mean |SᵀS - TᵀT| of each sample; d/dS = 2·S·sign(SᵀS - TᵀT) / N², computed with the value.

    A position's product with itself is 1 for any S: the difference of two such products is rounding and has no
    gradient.
    """

    @staticmethod
    def forward(ctx: Any, student: torch.Tensor, teacher: torch.Tensor, rows: int) -> torch.Tensor:
        means, gradient = distances_by_rows(student, teacher, rows)
        ctx.save_for_backward(gradient)
        return means

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (gradient,) = ctx.saved_tensors
        return gradient * upstream[:, None, None], None, None
