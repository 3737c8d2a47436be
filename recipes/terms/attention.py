"""PAMS' normalised attention: where in the image the energy of a feature lies.

    â(F) = flatten(mean_c F²) / ‖·‖₂ of each sample,   d = mean (â(F_S) - â(F_T))²

Li et al., PAMS (ECCV 2020); code followed: colorjam/PAMS, utils/common.py. A map of zeros has â = 0.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from recipes.terms.precision import widened


def normalised_attention(feature: torch.Tensor) -> torch.Tensor:
    """â, (B, h·w)."""
    return F.normalize(widened(feature).square().mean(1).flatten(1), dim=1)


def attention_distance(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """d of each sample, (B,); the teacher gets no gradient."""
    return (normalised_attention(student) - normalised_attention(teacher.detach())).square().mean(1)
