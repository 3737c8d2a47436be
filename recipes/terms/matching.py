"""LFD-style feature matching: a 1×1 regressor, and more weight where the student is farther off.

    g = |r(F_S) - F_T|,   a = mean_c g,   m = sg(a / mean_hw a),   n = sg(mean |F_T|),   d = mean(m ⊙ g) / n

[choice] The name follows the "LFD" rows of CLSD's table; LFD's own paper is not among our sources, so all of this is
ours. n makes the term free of scale: EDSR's features live on a scale of 255, SwinIR's on one of 1. Without the
stop-gradient on m, a student would be paid for piling its error up in one place.
Where a sample has no error at all m is 0 (0/0 otherwise), and a teacher map of zeros counts with n = 1e-8.
"""

from __future__ import annotations

import torch
from torch import nn

from compressor.base.randomness import torch_seed
from recipes.terms.distances import widen

SMALLEST_LEVEL = 1e-8


def regressor(student_channels: int, teacher_channels: int, *, seed: int) -> nn.Conv2d:
    """r: a 1×1 convolution with bias, trained with the student and never exported."""
    with torch_seed(seed):
        return nn.Conv2d(student_channels, teacher_channels, 1)


def attention(error: torch.Tensor) -> torch.Tensor:
    """m, (B,1,h,w): the error of each position over the sample's mean error; mean 1 a sample, no gradient."""
    by_position = error.detach().mean(1, keepdim=True)
    mean = by_position.mean((2, 3), keepdim=True)
    return by_position / mean.clamp_min(torch.finfo(mean.dtype).tiny)


def attended_distance(
    regressed: torch.Tensor, teacher: torch.Tensor, level: torch.Tensor | None = None
) -> torch.Tensor:
    """d of each sample, (B,); n is the whole batch's, so that the mean over samples is the batch's d.

    `level` is n where the batch is larger than these samples.
    """
    target = widen(teacher.detach())
    error = (widen(regressed) - target).abs()
    level = target.abs().mean() if level is None else level
    return (attention(error) * error).flatten(1).mean(1) / level.clamp_min(SMALLEST_LEVEL)


def attended_bytes(elements: int) -> int:
    """What `attended_distance` needs at its peak beside maps of so many elements: four fp32 tensors of that size."""
    return 4 * 4 * elements
