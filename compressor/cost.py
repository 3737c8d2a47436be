"""Parameters and multiply-accumulates, counted on the meta device: no memory, no time, any size.

MACs are those of convolutions, linear layers and attention products, without mean shift; what papers on
super-resolution call FLOPs are these. MAC+ adds one operation for each element that global pooling reads and five for
each element of a LayerNorm, as the counter behind DUKD's table 1 does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from compressor.errors import UsageError
from compressor.networks.base import Network, Spec
from compressor.networks.layers import MeanShift
from compressor.networks.registry import build

EXTRA_OPERATIONS: dict[type[nn.Module], int] = {nn.AdaptiveAvgPool2d: 1, nn.LayerNorm: 5}
"""Operations of MAC+ for each element that such a module reads."""
LARGEST_SIDE = 65536


@dataclass(frozen=True)
class Cost:
    """Plain counts for one image; `lr_size` is (width, height)."""

    params: int
    macs: int
    macs_plus: int
    lr_size: tuple[int, int]


def cost(network: Network | Spec, lr_size: tuple[int, int] = (256, 256)) -> Cost:
    """Parameters and MACs of a network, or of a spec before anything is built, for one image of W × H LR pixels."""
    spec = network if isinstance(network, Spec) else network.spec
    if not all(1 <= side <= LARGEST_SIDE for side in lr_size):
        raise UsageError(f"lr_size={lr_size} is not a width and a height from 1 to {LARGEST_SIDE}")
    return _count(spec, lr_size)


@lru_cache(maxsize=256)
def _count(spec: Spec, lr_size: tuple[int, int]) -> Cost:
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"), torch.no_grad():
        network = build(spec)
        lr = torch.empty(1, network.descriptor.channels, lr_size[1], lr_size[0])
        with FlopCounterMode(display=False) as counter, extra_operations(network) as extra:
            network(lr)
    flops = counter.get_flop_counts()
    shifts = [name for name, module in network.named_modules() if isinstance(module, MeanShift)]
    root = type(network).__name__
    mean_shift = sum(sum(flops.get(f"{root}.{name}", {}).values()) for name in shifts)
    macs = (counter.get_total_flops() - mean_shift) // 2
    params = sum(parameter.numel() for parameter in network.parameters())
    return Cost(params, macs, macs + sum(extra), lr_size)


@contextmanager
def extra_operations(network: nn.Module) -> Iterator[list[int]]:
    """Collects what MAC+ adds, one entry for each pass through a counted module."""
    extra: list[int] = []

    def each(operations: int) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        return lambda module, inputs: extra.append(operations * inputs[0].numel())

    handles = [
        module.register_forward_pre_hook(each(operations))
        for module in network.modules()
        for kind, operations in EXTRA_OPERATIONS.items()
        if isinstance(module, kind)
    ]
    try:
        yield extra
    finally:
        for handle in handles:
            handle.remove()
