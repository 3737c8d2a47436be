"""The meta device without torch's Python kernels: shapes of the operations that networks here are made of.

The first such kernel imports torch's compiler with sympy, about a second that `srkd inspect` and a dry run would spend
for a few shapes. What is not listed here goes to torch's own kernel, which gives the same.

Parameters and multiply-accumulates, counted on the meta device: no memory, no time, any size.

MACs are those of convolutions, linear layers and attention products, without mean shift; what papers on
super-resolution call FLOPs are these. MAC+ adds one operation for each element that global pooling reads and five for
each element of a LayerNorm, as the counter behind DUKD's table 1 does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from torch.utils.hooks import RemovableHandle

from compressor.base.errors import UsageError
from compressor.models.networks.base import ImageModel, Network, Spec
from compressor.models.networks.layers import MeanShift
from compressor.models.networks.registry import build

aten = torch.ops.aten

POINTWISE = frozenset(
    {
        *(aten.add.Tensor, aten.add.Scalar, aten.sub.Tensor, aten.sub.Scalar, aten.rsub.Scalar),
        *(aten.mul.Tensor, aten.mul.Scalar, aten.div.Tensor, aten.div.Scalar, aten.neg.default),
        *(aten.abs.default, aten.sgn.default, aten.sqrt.default, aten.pow.Tensor_Scalar, aten.exp.default),
        *(aten.relu.default, aten.threshold_backward.default, aten.sigmoid.default, aten.sigmoid_backward.default),
        *(aten.leaky_relu.default, aten.leaky_relu_backward.default, aten._prelu_kernel.default),
        *(aten.gelu.default, aten.gelu_backward.default, aten.clamp.default),
        *(aten.clone.default, aten.empty_like.default, aten.zeros_like.default, aten.ones_like.default),
    }
)
"""Of the broadcast shape of their tensors; taken only where all of these have one floating type."""


class OnMeta(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Within the block, operations on meta tensors cost next to nothing the first time too."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # Skipping the compiler would import it.

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: tuple[Any, ...] = (), options: Mapping[str, Any] | None = None
    ) -> Any:
        known = shape_only(function, arguments) if _says_nothing_new(options or {}, arguments) else None
        result = function(*arguments, **(options or {})) if known is None else known
        self.ran(function, arguments, options or {}, result)
        return result

    def ran(self, function: Any, arguments: tuple[Any, ...], options: Mapping[str, Any], result: Any) -> None:
        """For those who count or weigh operations."""


def _says_nothing_new(options: Mapping[str, Any], arguments: tuple[Any, ...]) -> bool:
    """Layouts do not matter on the meta device; another type or device would."""
    like = arguments[0] if arguments and isinstance(arguments[0], torch.Tensor) else None
    same = {"dtype": getattr(like, "dtype", None), "device": getattr(like, "device", None)}
    rest = {name: value for name, value in options.items() if name not in ("memory_format", "layout", "pin_memory")}
    return all(value is None or (name in same and value == same[name]) for name, value in rest.items())


def shape_only(function: Any, arguments: tuple[Any, ...]) -> Any:
    """What `function` gives on meta tensors, or None where torch has to be asked."""
    flat = arguments[0] if arguments and isinstance(arguments[0], (list, tuple)) else arguments
    tensors = [argument for argument in flat if isinstance(argument, torch.Tensor)]
    kinds = {tensor.dtype for tensor in tensors}
    if not tensors or len(kinds) != 1 or not all(one.is_meta for one in tensors):
        return None
    if function in POINTWISE and tensors[0].is_floating_point():
        return _empty(np.broadcast_shapes(*(tensor.shape for tensor in tensors)), tensors[0])
    rule = RULES.get(function)
    return None if rule is None else rule(*arguments)


def _empty(shape: Sequence[int], like: torch.Tensor) -> torch.Tensor:
    return torch.empty(tuple(shape), dtype=like.dtype, device="meta")


def _convolution(
    image: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    *rest: object,
) -> torch.Tensor | None:
    if transposed or image.dim() != weight.dim():
        return None
    axes = zip(image.shape[2:], weight.shape[2:], stride, padding, dilation, strict=False)
    sides = [(side + 2 * pad - gap * (kernel - 1) - 1) // step + 1 for side, kernel, step, pad, gap in axes]
    if len(sides) != image.dim() - 2 or min(sides) < 1:
        return None
    return _empty([image.shape[0], weight.shape[0], *sides], image)


def _convolution_backward(
    gradient: torch.Tensor, image: torch.Tensor, weight: torch.Tensor, bias_shape: Sequence[int] | None, *rest: Any
) -> tuple[torch.Tensor | None, ...]:
    shapes = (image.shape, weight.shape, bias_shape or ())
    return tuple(_empty(shape, image) if wanted else None for wanted, shape in zip(rest[-1], shapes, strict=True))


def _mean(image: torch.Tensor, axes: Sequence[int] | None = None, keep: bool = False) -> torch.Tensor:
    gone = {axis % image.dim() for axis in axes} if axes else set(range(image.dim()))
    sides = [1 if axis in gone else side for axis, side in enumerate(image.shape) if keep or axis not in gone]
    return _empty(sides, image)


def _cat(images: Sequence[torch.Tensor], axis: int = 0) -> torch.Tensor | None:
    first = images[0]
    if any(image.dim() != first.dim() for image in images):
        return None
    sides = list(first.shape)
    sides[axis] = sum(image.shape[axis] for image in images)
    return _empty(sides, first)


def _stack(images: Sequence[torch.Tensor], axis: int = 0) -> torch.Tensor:
    sides = list(images[0].shape)
    sides.insert(axis % (len(sides) + 1), len(images))
    return _empty(sides, images[0])


def _shuffle(image: torch.Tensor, factor: int) -> torch.Tensor:
    *batch, channels, height, width = image.shape
    return _empty([*batch, channels // factor**2, height * factor, width * factor], image)


def _unshuffle(image: torch.Tensor, factor: int) -> torch.Tensor:
    *batch, channels, height, width = image.shape
    return _empty([*batch, channels * factor**2, height // factor, width // factor], image)


RULES: Mapping[Any, Callable[..., Any]] = {
    aten.convolution.default: _convolution,
    aten.convolution_backward.default: _convolution_backward,
    aten.cat.default: _cat,
    aten.stack.default: _stack,
    aten._prelu_kernel_backward.default: lambda gradient, image, weight: (_empty(image.shape, image),) * 2,
    aten.pixel_shuffle.default: _shuffle,
    aten.pixel_unshuffle.default: _unshuffle,
    aten.upsample_nearest2d.default: lambda image, sides, *rest: _empty([*image.shape[:2], *sides], image),
    aten.mean.default: _mean,
    aten.mean.dim: _mean,
    aten.sum.dim_IntList: _mean,
    aten.sum.default: _mean,
}


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


def cost(network: ImageModel | Spec, lr_size: tuple[int, int] = (256, 256)) -> Cost:
    """Parameters and MACs of a network, or of a spec before anything is built, for one image of W × H LR pixels."""
    spec = network if isinstance(network, Spec) else network.require_network("a spec").spec
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
