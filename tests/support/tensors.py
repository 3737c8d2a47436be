"""Tensors, gradients, golden cases, literal formulas and peak memory, for tests of terms and methods."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from recipes.methods.fakd import unit_columns
from recipes.terms.contrast import ratio_of, sample_distances
from recipes.terms.distances import full_precision
from tests.support.shared import GOLDEN


def golden(name: str) -> dict[str, Tensor]:
    return {key: torch.from_numpy(value) for key, value in np.load(GOLDEN / f"{name}.npz").items()}


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def gradient_of(loss: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    at = at.clone().requires_grad_()
    loss(at).sum().backward()
    assert at.grad is not None
    return at.grad


def close(actual: Tensor, expected: Tensor, relative: float = 1e-5) -> bool:
    """Return whether the largest difference is at most a share of the largest expected value."""
    return bool((actual - expected).abs().max() <= relative * expected.abs().max())


class PeakMemory(TorchDispatchMode):
    """Peak bytes of the tensors created inside the context, without those that have no memory of their own."""

    def __init__(self, *existing: Tensor) -> None:
        super().__init__()
        self.live_bytes = self.peak_bytes = 0
        self.storages = {tensor.untyped_storage()._cdata for tensor in existing}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if not isinstance(tensor, Tensor) or tensor.is_meta:
                continue
            if tensor.untyped_storage()._cdata not in self.storages:
                storage = tensor.untyped_storage()
                self.storages.add(storage._cdata)
                self.live_bytes += storage.nbytes()
                weakref.finalize(storage, self.freed, storage._cdata, storage.nbytes())
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)
        return result

    def freed(self, key: int, size_bytes: int) -> None:
        self.storages.discard(key)
        self.live_bytes -= size_bytes


def affinity(feature: Tensor) -> Tensor:
    """Return FAKD's whole matrix A(F) by its formula, for small maps."""
    with full_precision(feature):
        unit = unit_columns(feature)
        return unit.transpose(1, 2) @ unit


def contrast_ratio(anchors: Sequence[Tensor], positives: Sequence[Tensor], negatives: Sequence[Tensor]) -> Tensor:
    """Return CSD's R for the features of S, P and N: a tensor per level, (B,C,h,w) for S and P, (K,C,h,w) for N."""
    return ratio_of(sample_distances(anchors, positives, negatives))
