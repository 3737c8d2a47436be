"""Mean absolute distances in fp32: per sample, and between all pairs of samples without storing all differences.

    d(a, b) = mean |a - b| over all elements of a sample

One other sample is handled at a time, and on a CPU so few elements that they stay in the cache: all differences of B
anchors and K others would be gigabytes. The gradient of a sum over the others, sums of signs, is computed in the same
pass. Terms are in fp32 also inside a bf16 autocast, as differences of similar features lose precision.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch.autograd.function import once_differentiable


def full_precision(like: torch.Tensor) -> AbstractContextManager[object]:
    """Return a context without autocast on the device of `like`: matrix products keep the precision of their inputs."""
    return torch.autocast(like.device.type, enabled=False)


def widen(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor in fp32; fp64 is kept."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


CACHED_ELEMENTS = 2**17
"""Number of elements of one sample handled at a time on a CPU: half a MiB in fp32."""


def sample_l1(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Return d(first_i, second_i) of each sample, (B,); its mean is the L1 of the batch."""
    distances: torch.Tensor = _SummedL1.apply(first, second, True)  # type: ignore[no-untyped-call]
    return distances


def summed_l1(anchors: torch.Tensor, others: torch.Tensor, *, own: bool = False) -> torch.Tensor:
    """Return Σ_k d(anchor_i, other_k), (B,). The gradient reaches the anchors; the others are constants.

    With `own` each anchor has K others of its own: `others` are K batches in the anchors' order, concatenated.
    """
    distances: torch.Tensor = _SummedL1.apply(anchors, others.detach(), own)  # type: ignore[no-untyped-call]
    return distances


def in_rows(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Return one row per sample, with its elements in the memory order of `like` (contiguous or channels last)."""
    return (tensor.permute(0, 2, 3, 1) if _has_channels_last(like) else tensor).reshape(len(tensor), -1)


def from_rows(rows: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Return the inverse of `in_rows`, in the shape of `like`."""
    if not _has_channels_last(like):
        return rows.reshape(like.shape)
    batch, channels, height, width = like.shape
    return rows.reshape(batch, height, width, channels).permute(0, 3, 1, 2)


def _has_channels_last(tensor: torch.Tensor) -> bool:
    return tensor.dim() == 4 and not tensor.is_contiguous() and tensor.is_contiguous(memory_format=torch.channels_last)


def pairwise_l1(anchors: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Return d(anchor_i, other_k), (B,K). The gradient reaches the anchors; the others are constants."""
    rows = (in_rows(widen(features), anchors) for features in (anchors, others.detach()))
    distances: torch.Tensor = _PairwiseL1.apply(*rows)  # type: ignore[no-untyped-call]
    return distances


class _SummedL1(torch.autograd.Function):
    """Sums of d over the others at the same index of each batch of them (`is_paired`), or over all others.

    The others are constants, unless they are a single batch and paired.
    """

    @staticmethod
    def forward(ctx: Any, anchors: torch.Tensor, others: torch.Tensor, is_paired: bool) -> torch.Tensor:
        dtype = torch.promote_types(torch.promote_types(anchors.dtype, others.dtype), torch.float32)
        rows, references = in_rows(anchors, anchors), in_rows(others, anchors)
        # Sums of signs are integers: exact in the features' own precision.
        signs = torch.empty_like(rows) if any(ctx.needs_input_grad) else None
        count, size = rows.shape
        chunk = max(1, CACHED_ELEMENTS // count) if rows.device.type == "cpu" else size
        totals = torch.zeros(count, dtype=dtype, device=rows.device)
        for start in range(0, size, chunk):
            columns = slice(start, start + chunk)
            values, compared = rows[:, columns].to(dtype), references[:, columns].to(dtype)
            total = torch.zeros_like(values)
            for other in compared.reshape(-1, *values.shape) if is_paired else compared:
                difference = values - other
                totals += difference.abs().sum(1)
                total += difference.sign_()
            if signs is not None:
                signs[:, columns] = total
        if signs is not None:
            ctx.save_for_backward(from_rows(signs, anchors))
        ctx.others_dtype = others.dtype
        return totals / size

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (signs,) = ctx.saved_tensors
        shares = (upstream * len(signs) / signs.numel()).to(signs.dtype)
        gradient = signs * shares.reshape(-1, *[1] * (signs.dim() - 1))
        return gradient, -gradient.to(ctx.others_dtype) if ctx.needs_input_grad[1] else None, None


class _PairwiseL1(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, anchors: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(anchors, others)
        return torch.stack([(anchors - other).abs_().mean(1) for other in others], 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        anchors, others = ctx.saved_tensors
        shares = upstream / anchors[0].numel()
        gradient = torch.zeros_like(anchors)
        for share, other in zip(shares.unbind(1), others, strict=True):
            gradient.addcmul_((anchors - other).sign_(), share[:, None])
        return gradient, None
