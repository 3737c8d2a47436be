"""Branches of convolutions that exist only in training, as the one convolution that computes the same.

Everything is in float64 and cast once. The result is exact at borders if all zero padding comes before the first layer
of a branch, as Conv3XC (SPAN, basicsr/archs/span_arch.py) does it: padding between a biased 1×1 and a 3×3 is not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch.nn import functional as F

from compressor.base.errors import SrkdError
from compressor.models.networks.base import N


class Kernel(NamedTuple):
    """Weight (outputs, inputs, side, side) and bias of a convolution, in float64."""

    weight: torch.Tensor
    bias: torch.Tensor

    @classmethod
    def of(cls, state: Mapping[str, torch.Tensor], layer: str) -> Kernel:
        """Return the kernel of a layer of a file; a tensor that is missing or no such kernel is refused by name."""
        tensors = []
        for name, dims in ((f"{layer}.weight", 4), (f"{layer}.bias", 1)):
            tensor = state.get(name)
            if tensor is None:
                raise SrkdError(f"tensor {name} is missing")
            if tensor.dim() != dims or not tensor.is_floating_point() or tensor.numel() == 0:
                raise SrkdError(f"tensor {name} is {tuple(tensor.shape)}, {tensor.dtype}: not that of a convolution")
            tensors.append(tensor.detach().double())
        kernel = cls(*tensors)
        outputs, _, height, width = kernel.weight.shape
        if len(kernel.bias) != outputs or height != width or height % 2 == 0:
            raise SrkdError(f"{layer} has {outputs} outputs of {height}×{width} and {len(kernel.bias)} biases")
        return kernel


def in_series(*kernels: Kernel) -> Kernel:
    """Return the convolution that equals convolutions run in turn; at most one of them is larger than 1×1."""
    first, *rest = kernels
    for second in rest:
        if first.weight.shape[0] != second.weight.shape[1]:
            raise SrkdError(f"a convolution of {first.weight.shape[0]} outputs precedes one that reads another number")
        if first.weight.shape[2:] == (1, 1):
            weight = torch.einsum("omhw,mi->oihw", second.weight, first.weight[:, :, 0, 0])
        elif second.weight.shape[2:] == (1, 1):
            weight = torch.einsum("om,mihw->oihw", second.weight[:, :, 0, 0], first.weight)
        else:
            raise SrkdError("two convolutions larger than 1×1 in a row are not one of their size")
        first = Kernel(weight, second.weight.sum((2, 3)) @ first.bias + second.bias)
    return first


def in_parallel(*kernels: Kernel) -> Kernel:
    """Return the convolution that equals the sum of convolutions of odd sides; it has the largest of their sides."""
    side = max(kernel.weight.shape[-1] for kernel in kernels)
    weight, bias = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for kernel in kernels:
        if kernel.weight.shape[:2] != kernels[0].weight.shape[:2]:
            raise SrkdError("branches of different inputs or outputs are no sum")
        border = (side - kernel.weight.shape[-1]) // 2
        weight, bias = weight + F.pad(kernel.weight, [border] * 4), bias + kernel.bias
    return Kernel(weight, bias)


@torch.no_grad()
def with_averaged_tail(network: N, scale: int) -> N | None:
    """Return the exact network of a smaller scale; None if quantised, unshuffling or no multiple of `scale`.

    A ×s image reduced by the mean of k×k pixels is the ×s/k image of the same body: the filters in `tail` of the k×k
    sub-pixels that become one are averaged. A nearest upscale of the input needs no change; a clip behind the shuffle
    is not averaged.
    """
    spec: Any = network.spec
    if spec.scale % scale or network.quantisation is not None or getattr(spec, "unshuffle", 1) > 1:
        return None
    mean = spec.scale // scale
    state = dict(network.state_dict())
    for name in ("tail.weight", "tail.bias"):
        subpixels = state[name].unflatten(0, (spec.channels, scale, mean, scale, mean))
        state[name] = subpixels.mean((2, 4)).flatten(0, 2)
    return network.filled(type(network)(replace(spec, scale=scale)), state)
