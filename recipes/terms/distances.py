"""Mean absolute distances by sample, and between every two samples, without the tensor of all differences.

    d(a, b) = mean |a - b| over all that belongs to one sample

B anchors against K others would be a tensor of K·B features: 10·16 of 64×192×192 are 1.4 GiB a level, and autograd
would keep it. Here one other is taken at a time, and backward goes over them again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from recipes.terms.precision import widened


def sample_l1(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """d(first_i, second_i) of each sample, (B,); its mean is the L1 of the batch."""
    return (widened(first) - widened(second)).abs().flatten(1).mean(1)


def pairwise_l1(anchors: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """d(anchor_i, other_k), shape (B,K). The gradient reaches the anchors; the others are taken as constants."""
    distances: torch.Tensor = _PairwiseL1.apply(widened(anchors), widened(others.detach()))  # type: ignore[no-untyped-call]
    return distances


def pairwise_bytes(anchor_elements: int, other_elements: int, *, half: bool) -> int:
    """What `pairwise_l1` needs at its peak beside its inputs: one difference and the gradient, and where the inputs
    have half precision their fp32 copies."""
    copies = anchor_elements + other_elements if half else 0
    return 4 * (2 * anchor_elements + copies)


class _PairwiseL1(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, anchors: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(anchors, others)
        return torch.stack([(anchors - other).abs_().flatten(1).mean(1) for other in others], 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        anchors, others = ctx.saved_tensors
        shares = upstream / anchors[0].numel()
        gradient = torch.zeros_like(anchors)
        for share, other in zip(shares.unbind(1), others, strict=True):
            gradient.addcmul_((anchors - other).sign_(), share.reshape(-1, *[1] * (anchors.dim() - 1)))
        return gradient, None
