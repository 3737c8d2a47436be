"""Parameters and multiply-accumulates, counted on the meta device: no memory, no time, any size.

MACs are those of convolutions, linear layers and attention products, without mean shift; what papers on
super-resolution call FLOPs are these. MAC+ adds one operation for each element that global pooling reads and five for
each element of a LayerNorm, as the counter behind DUKD's table 1 does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import flop_registry
from torch.utils.hooks import RemovableHandle

from compressor.errors import UsageError
from compressor.meta import OnMeta
from compressor.networks.base import Network, Spec
from compressor.networks.layers import MeanShift
from compressor.networks.registry import build

EXTRA_OPERATIONS: dict[type[nn.Module], int] = {nn.AdaptiveAvgPool2d: 1, nn.LayerNorm: 5}
"""Operations of MAC+ for each element that such a module reads."""
LARGEST_SIDE = 65536


@dataclass(frozen=True)
class Cost:
    """PlainMethod counts for one image; `lr_size` is (width, height)."""

    params: int
    macs: int
    macs_plus: int
    lr_size: tuple[int, int]


@dataclass(frozen=True)
class LayerCost:
    """One module that has parameters or multiplies of its own; a shared one is listed once, with all its passes."""

    name: str
    kind: str
    params: int
    macs: int


def cost(network: Network | Spec, lr_size: tuple[int, int] = (256, 256)) -> Cost:
    """Parameters and MACs of a network, or of a spec before anything is built, for one image of W × H LR pixels."""
    spec = network if isinstance(network, Spec) else network.spec
    if not all(1 <= side <= LARGEST_SIDE for side in lr_size):
        raise UsageError(f"lr_size={lr_size} is not a width and a height from 1 to {LARGEST_SIDE}")
    return _count(spec, lr_size)


@lru_cache(maxsize=256)
def _count(spec: Spec, lr_size: tuple[int, int]) -> Cost:
    counted = _pass(spec, lr_size)
    shifts = [name for name, module in counted.network.named_modules() if isinstance(module, MeanShift)]
    macs = counted.macs[""] - sum(counted.macs.get(name, 0) for name in shifts)
    params = sum(parameter.numel() for parameter in counted.network.parameters())
    return Cost(params, macs, macs + counted.extra, lr_size)


def layer_costs(network: Network | Spec, lr_size: tuple[int, int] = (256, 256)) -> tuple[LayerCost, ...]:
    """The same by layer, in the order of the network; the rows add up to its parameters and MACs."""
    counted = _pass(network if isinstance(network, Spec) else network.spec, lr_size)
    own = _without_submodules(counted.macs)
    rows = []
    for name, module in counted.network.named_modules():
        macs = own.get(name, 0)
        params = sum(parameter.numel() for parameter in module.parameters(recurse=False))
        if (params or macs) and not isinstance(module, MeanShift):
            rows.append(LayerCost(name, type(module).__name__, params, macs))
    return tuple(rows)


def _without_submodules(macs: dict[str, int]) -> dict[str, int]:
    """What each module does itself: less what the nearest counted modules inside it do."""
    own = dict(macs)
    for name in macs:
        outer = name
        while outer:
            outer = outer.rpartition(".")[0]
            if outer in macs:
                own[outer] -= macs[name]
                break
    return own


@dataclass(frozen=True)
class _Pass:
    """One image through the network on the meta device: MACs by module ("" is the whole), and what MAC+ adds."""

    network: Network
    macs: dict[str, int]
    extra: int


class _Counting(OnMeta):  # type: ignore[no-untyped-call]
    """Adds up multiply-accumulates by module: each of those that an operation runs within, and "" for the whole."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.macs = {"": 0}
        self.within: list[str] = []
        self._hooks = [hook for name, module in network.named_modules() if name for hook in self._follow(name, module)]

    def _follow(self, name: str, module: nn.Module) -> tuple[RemovableHandle, RemovableHandle]:
        def leave(*_: object) -> None:
            self.within.pop()

        return (
            module.register_forward_pre_hook(lambda *_: self.within.append(name)),
            module.register_forward_hook(leave),
        )

    def ran(self, function: Any, arguments: tuple[Any, ...], options: Mapping[str, Any], result: Any) -> None:
        rule = flop_registry.get(function.overloadpacket)
        if rule is not None:
            macs = rule(*arguments, **options, out_val=result) // 2
            for name in {"", *self.within}:
                self.macs[name] = self.macs.get(name, 0) + macs

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        for hook in self._hooks:
            hook.remove()


def _pass(spec: Spec, lr_size: tuple[int, int]) -> _Pass:
    with torch.device("meta"), torch.no_grad(), OnMeta():
        network = build(spec)
        lr = torch.empty(1, network.descriptor.channels, lr_size[1], lr_size[0])
        with _Counting(network) as counted, extra_operations(network) as extra:
            network(lr)
    return _Pass(network, counted.macs, sum(extra))


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
