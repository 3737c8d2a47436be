"""Parameters and multiply-accumulates (MACs), counted on the meta device: no memory, no time, any size.

MACs are those of convolutions, linear layers and attention products, without mean shift; super-resolution papers call
them FLOPs. MAC+ adds one operation per element that global pooling reads and five per element of a LayerNorm, as the
counter behind DUKD's table 1 does.
"""

from __future__ import annotations

import math
import weakref
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from torch.utils.hooks import RemovableHandle

from compressor.models.networks.base import ImageModel, Spec
from compressor.models.networks.image_cost import COMPARED_SIZE, Cost
from compressor.models.networks.layers import MeanShift
from compressor.models.networks.registry import build

EXTRA_OPERATIONS: dict[type[nn.Module], int] = {nn.AdaptiveAvgPool2d: 1, nn.LayerNorm: 5}
"""Operations that MAC+ counts per input element of such a module."""
MEASURED_SIDE = 32


@dataclass(frozen=True)
class LayerCost:
    """One module with parameters or MACs of its own; a shared module is listed once, with the MACs of all passes."""

    name: str
    kind: str
    params: int
    macs: int


def cost(network: ImageModel | Spec, lr_size: tuple[int, int] = COMPARED_SIZE) -> Cost:
    """Return the parameters and MACs of a network, or of a spec without building it; `lr_size` is W × H LR pixels."""
    spec = network if isinstance(network, Spec) else network.require_network("a spec").spec
    layers, extra = _counted(spec, lr_size)
    macs = sum(layer.macs for layer in layers)
    return Cost(sum(layer.params for layer in layers), macs, macs + extra, lr_size)


def layer_costs(network: ImageModel | Spec, lr_size: tuple[int, int] = COMPARED_SIZE) -> tuple[LayerCost, ...]:
    """Return the cost of each layer, in the order of the network; the rows add up to its parameters and MACs."""
    return _counted(network if isinstance(network, Spec) else network.require_network("a spec").spec, lr_size)[0]


@lru_cache(maxsize=64)
def pixel_bytes(spec: Spec) -> int:
    """Return the peak memory in bytes per LR pixel in fp32 without gradients, excluding the weights.

    A small image runs for it: on the meta device torch would import its compiler, which takes a second or two.
    """
    network = build(spec.deployed, seed=0)
    model = network.descriptor
    side = math.ceil(max(MEASURED_SIDE, model.min_size) / model.size_multiple) * model.size_multiple
    with torch.no_grad(), _LiveBytes() as live:
        network(torch.zeros(1, model.channels, side, side))
    return math.ceil(int(live.peak) / side**2)


@lru_cache(maxsize=256)
def _counted(spec: Spec, lr_size: tuple[int, int]) -> tuple[tuple[LayerCost, ...], int]:
    """Return the cost of each layer of the deployed network for one image, and the operations that MAC+ adds."""
    with torch.device("meta"), torch.no_grad():
        network = build(spec.deployed)
        lr = torch.empty(1, network.descriptor.channels, lr_size[1], lr_size[0])
        with _Counter(network) as counter:
            network(lr)
    rows = []
    for name, module in network.named_modules():
        macs = counter.macs.get(name, 0)
        params = sum(parameter.numel() for parameter in module.parameters(recurse=False))
        if (params or macs) and not isinstance(module, MeanShift):
            rows.append(LayerCost(name, type(module).__name__, params, macs))
    return tuple(rows), counter.extra


class _WatchedOperations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A mode that calls `after` with every operation and its result."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # Skipping the compiler would import it.

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: tuple[Any, ...] = (), options: Mapping[str, Any] | None = None
    ) -> Any:
        result = function(*arguments, **(options or {}))
        self.after(function, arguments, options or {}, result)
        return result

    def after(self, function: Any, arguments: tuple[Any, ...], options: Mapping[str, Any], result: Any) -> None:
        raise NotImplementedError


class _LiveBytes(_WatchedOperations):  # type: ignore[no-untyped-call]
    """The bytes of live tensors that were created within the block, and their peak."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = self.peak = 0
        self._storages: set[int] = set()

    def after(self, function: Any, arguments: tuple[Any, ...], options: Mapping[str, Any], result: Any) -> None:
        for tensor in tree_leaves(result):
            if not isinstance(tensor, torch.Tensor):
                continue
            storage = tensor.untyped_storage()
            key, size = storage._cdata, storage.nbytes()
            if key not in self._storages:
                self._storages.add(key)
                self.bytes += size
                weakref.finalize(storage, self._remove, key, size)
        self.peak = max(self.peak, self.bytes)

    def _remove(self, key: int, size: int) -> None:
        self._storages.discard(key)
        self.bytes -= size


class _Counter(_WatchedOperations):  # type: ignore[no-untyped-call]
    """A counter of MACs for the innermost module that runs during an operation, and of what MAC+ adds: `extra`."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.macs: Counter[str] = Counter()
        self.within = [""]
        self.extra = 0
        self._hooks = [hook for name, module in network.named_modules() if name for hook in self._follow(name, module)]

    def _follow(self, name: str, module: nn.Module) -> tuple[RemovableHandle, RemovableHandle]:
        def enter(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            self.within.append(name)
            operations = sum(count for kind, count in EXTRA_OPERATIONS.items() if isinstance(module, kind))
            self.extra += operations * inputs[0].numel()

        def leave(*_: object) -> None:
            self.within.pop()

        return module.register_forward_pre_hook(enter), module.register_forward_hook(leave)

    def after(self, function: Any, arguments: tuple[Any, ...], options: Mapping[str, Any], result: Any) -> None:
        if rule := flop_registry.get(function.overloadpacket):
            self.macs[self.within[-1]] += rule(*arguments, **options, out_val=result) // 2

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        for hook in self._hooks:
            hook.remove()
