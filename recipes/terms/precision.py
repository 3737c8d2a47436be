"""Terms are computed in fp32 also inside a bf16 autocast: differences of features lose their digits first."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def full_precision(like: torch.Tensor) -> AbstractContextManager[object]:
    """A region without autocast on the device of `like`: matrix products in it keep the precision of their inputs.

    Shapes alone, on the meta device, have no precision.
    """
    if like.device.type == "meta":
        return nullcontext()
    return torch.autocast(like.device.type, enabled=False)


def widened(tensor: torch.Tensor) -> torch.Tensor:
    """fp32, or fp64 where it was."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()
