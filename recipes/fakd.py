"""FAKD: the similarity of any two positions in the student's features, as in the teacher's.

    L = (1 - α)·L1(S, y) + α·L1(S, sg T) + β·Σ_l d(F_S, sg F_T),   d(F, G) = mean |A(F) - A(G)|
    A(F) = f̂ᵀ f̂   (B,N,N), N = h·w,   f̂ = f / (‖f‖ over channels + 1e-8)

He et al., FAKD (ICIP 2020); code followed: Vincent-Hoo/Knowledge-Distillation-for-Super-resolution, code/loss.py,
feature_transformation.py (spatial_similarity), models/edsr.py, models/rcan.py. α = 0.5; β = 10 for images in [0,255],
10/255 in [0,1]. The term is summed over taps, not averaged. A has no channels, so that student and teacher may differ
in width and in kind.

Three taps. EDSR and the rest: rel(1/3), rel(2/3), pre_up; RCAN of ten groups: body[2], body[6], pre_up, as its code
has them. The paper's figure draws the third before the global skip; its code adds the skip in place and so compares
after it: `taps=[rel(1/3), rel(2/3), body_end]` is the figure.
`gate` lets what is learnt of the teacher, image and affinities, through by the patch (gating.py); off as published.

- The epsilon is added to the norm, it does not stand inside the square root.
- Official gradients are NaN where all channels of a position are zero; here the gradient of such a position is 0.
- Paper and code keep A whole: 324 MiB a map for 16 patches of 48×48. Here A exists a few rows at a time. A is
  symmetric, so one product of signs gives a row's gradient, made in the same pass as the value: nothing is kept and
  nothing is computed twice.
- DUKD's copy of this loss rebuilds it from numbers and so has no gradient at all; it is not followed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from compressor.base.errors import UsageError
from compressor.models.networks.base import Network
from compressor.training.step import Step
from recipes.distances import full_precision, widen
from recipes.features import FeatureMethod, Shape

CODE_TAPS: Mapping[tuple[str, int], tuple[str, str]] = {("rcan", 10): ("body[2]", "body[6]")}
"""The first two taps of the networks whose taps the paper's code names by number, by network and number of blocks."""
EPS = 1e-8
MIB = 2**20
MEMORY_BOUND_BYTES = 256 * MIB
"""The most memory for the rows of A that exist at one time."""
TENSORS_AT_ONCE = 2
"""Copies of those rows that exist at one time: the differences, and the ones that their sum needs."""


@dataclass(frozen=True)
class FAKD(FeatureMethod):
    alpha: Annotated[float, Field(ge=0, le=1, description="share of the teacher's image in the L1 to images")] = 0.5
    beta: Annotated[float, Field(ge=0, description="weight of the affinities, for images in [0,1]")] = 10 / 255
    memory_mb: Annotated[
        int, Field(ge=1, description="MiB for the rows of an affinity; fewer are slower, the result is the same")
    ] = MEMORY_BOUND_BYTES // MIB
    name: str = "fakd"
    term: ClassVar[str] = "affinity"

    @property
    def weights(self) -> Mapping[str, float]:
        return {"pixel": 1.0 - self.alpha, self.image_term: self.alpha, "affinity": self.beta}

    def usual_taps(self, network: Network) -> tuple[str, ...]:
        blocks = sum(name.startswith("body[") for name in network.taps)
        first_two = CODE_TAPS.get((network.spec.arch, blocks))
        return super().usual_taps(network) if first_two is None else (*first_two, self.last)

    def terms(self, step: Step) -> dict[str, torch.Tensor]:
        forward = self.run_networks(step)
        gate = self.gate_values(step, forward.student, forward.teacher)
        distances = [affinity_l1(*pair, memory_bound_bytes=self.memory_mb * MIB) for pair in forward.features]
        return {
            "pixel": F.l1_loss(forward.student, step.hr),
            self.image_term: self.image_loss(gate, forward.student, forward.teacher),
            "affinity": (gate * torch.stack(distances)).mean(1).sum(),
        }

    def bytes_of(self, student: Shape, teacher: Shape, processes: int) -> int:
        positions = student[2] * student[3]
        bound = self.memory_mb * MIB
        return affinity_bytes(student[0], positions, student[1], teacher[1], memory_bound_bytes=bound)


def unit_columns(feature: torch.Tensor) -> torch.Tensor:
    """Return f̂ of (B,C,h,w) as (B,C,N); a position whose channels are all zero stays zero and gets no gradient."""
    flat = widen(feature).flatten(2)
    norm = torch.linalg.vector_norm(flat, dim=1, keepdim=True)
    return torch.where(norm > 0, flat / (norm + EPS), 0.0)


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
