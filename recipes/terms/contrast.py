"""FACD-style contrast between the patches of a batch, in feature space, and gates that choose where to distil.

    ratio      ℓ_i = 1/J Σ_j d(u_ij, F_ij) / (Σ_{k≠i} d(u_ij, F_kj) + 1e-7),   d = mean |·|,   u = DR(F_S): conv 1×1
    infonce    ℓ_i = 1/J Σ_j -log( e^{s_ii/τ} / Σ_k e^{s_ik/τ} ),   s = cosine of u and F averaged over space, τ = 0.1
    gates      hard  1[L1(T_i, y_i) < L1(S_i, y_i)],   soft  sigmoid((L1(S_i, y_i) - L1(T_i, y_i)) / τ_g),   off  1

[choice] FACD's abstract and one figure alone reached us: features contrasted at three taps, other patches as
negatives, a block DR on the student's side, distillation where it helps. Formula, weight, number of negatives and
rule are ours; call results FACD-style.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
from torch.nn import functional as F

from compressor.base.errors import UsageError
from recipes.terms.distances import full_precision, pairwise_l1, sample_l1, widen

EPS = 1e-7
TEMPERATURE = 0.1
SMALLEST_SPREAD = 1e-12
Form: TypeAlias = Literal["ratio", "infonce"]
Gate: TypeAlias = Literal["hard", "soft", "off"]


def contrast(
    student: Sequence[torch.Tensor], teacher: Sequence[torch.Tensor], form: Form = "ratio", *, first: int = 0
) -> torch.Tensor:
    """ℓ of each of the student's samples, from its regressed features u and the teacher's, a tensor a tap.

    The teacher's may have more rows, those of other processes: the student's sample i is the teacher's first + i.
    """
    if len(teacher[0]) < 2:
        raise UsageError("the other patches of the batch are the negatives: use a batch of at least 2")
    one_tap = ratio_form if form == "ratio" else infonce_form
    return torch.stack([one_tap(u, target, first) for u, target in zip(student, teacher, strict=True)]).mean(0)


def ratio_form(student: torch.Tensor, teacher: torch.Tensor, first: int = 0) -> torch.Tensor:
    distances = pairwise_l1(student, teacher)
    own = torch.zeros_like(distances, dtype=torch.bool)
    own.diagonal(first).fill_(True)
    return distances.diagonal(first) / (distances.masked_fill(own, 0.0).sum(1) + EPS)


def infonce_form(student: torch.Tensor, teacher: torch.Tensor, first: int = 0) -> torch.Tensor:
    with full_precision(student):
        u, target = (F.normalize(widen(side).mean((2, 3)), dim=1) for side in (student, teacher.detach()))
        likeness = u @ target.T / TEMPERATURE
        return F.cross_entropy(likeness, first + torch.arange(len(u), device=u.device), reduction="none")


def error_gap(student_sr: torch.Tensor, teacher_sr: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
    """L1(S_i, y_i) - L1(T_i, y_i), (B,), without gradient: above 0 where the teacher is better."""
    return (sample_l1(student_sr, hr) - sample_l1(teacher_sr, hr)).detach()


def gate_of(kind: Gate, gap: torch.Tensor, spread: float | torch.Tensor | None = None) -> torch.Tensor:
    """a, (B,), from the gap; `spread` is τ_g of the soft gate, the running deviation that the caller keeps."""
    gap = gap.detach()
    if kind == "off":
        return torch.ones_like(gap)
    if kind == "hard":
        return (gap > 0).to(gap.dtype)
    if spread is None:
        raise UsageError("the soft gate divides by the running deviation of the gap: pass it as spread")
    tau = torch.as_tensor(spread, dtype=gap.dtype, device=gap.device)
    return torch.sigmoid(gap / tau.clamp_min(SMALLEST_SPREAD))
