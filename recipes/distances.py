"""Mean absolute distances in fp32: of each sample, and between every two samples without all their differences at once.

    d(a, b) = mean |a - b| over all that belongs to one sample

B anchors against K others would be a tensor of K·B features: 10·16 of 64×192×192 are 1.4 GiB a level, and autograd
would keep it. Here one other is taken at a time, and backward goes over them again.

Terms are computed in fp32 also inside a bf16 autocast: differences of features lose their digits first.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.autograd.function import once_differentiable


def full_precision(like: torch.Tensor) -> AbstractContextManager[object]:
    """Return a region without autocast on the device of `like`: matrix products keep the precision of their inputs.

    Tensors on the meta device are shapes alone and have no precision.
    """
    if like.device.type == "meta":
        return nullcontext()
    return torch.autocast(like.device.type, enabled=False)


def widen(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor in fp32, or in fp64 where it was."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def sample_l1(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Return d(first_i, second_i) of each sample, (B,); its mean is the L1 of the batch."""
    return (widen(first) - widen(second)).abs().flatten(1).mean(1)


def pairwise_l1(anchors: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Return d(anchor_i, other_k), (B,K). The gradient reaches the anchors; the others are constants."""
    distances: torch.Tensor = _PairwiseL1.apply(widen(anchors), widen(others.detach()))  # type: ignore[no-untyped-call]
    return distances


def pairwise_bytes(anchor_elements: int) -> int:
    """Return the memory that `pairwise_l1` needs at its peak beside inputs in fp32: one difference and the gradient."""
    return 4 * 2 * anchor_elements


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
