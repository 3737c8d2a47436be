"""Features by canonical address: `head`, `body[k]`, `body_end`, `pre_up`, and `rel(p)`, the fraction p of the body.

rel(p) is body[⌊p·n⌋ - 1] of a body of n blocks, with p an exact fraction: rel(1/3) of six blocks is body[1].
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from functools import partial

import torch
from torch.utils.hooks import RemovableHandle

from compressor.base.errors import UsageError, nearest
from compressor.models.networks.base import Network, Tap

PROBE_SIDE = 8
"""Side of the probe image in LR pixels, small enough for the largest teacher to run at once."""


def resolve_tap(network: Network, address: str) -> str:
    """Return the network's own address: rel(p) becomes a body[k], the others must exist."""
    taps = network.taps
    relative = re.fullmatch(r"rel\(\s*(.+?)\s*\)", address)
    if relative is None:
        if address not in taps:
            raise UsageError(f"{network.spec.arch} has no tap {address!r}; {nearest(address, [*taps, 'rel(1/3)'])}")
        return address
    text = relative.group(1)
    try:
        fraction = Fraction(text)
    except (ValueError, ZeroDivisionError) as error:
        raise UsageError(f"{address}: {text!r} is not a fraction like 1/3 or 0.5") from error
    if not 0 < fraction <= 1:
        raise UsageError(f"{address}: {text} is outside (0, 1]")
    blocks = sum(name.startswith("body[") for name in taps)
    index = fraction.numerator * blocks // fraction.denominator - 1
    if index < 0:
        raise UsageError(f"{address} lies before the first of {network.spec.arch}'s {blocks} blocks: use head")
    return f"body[{index}]"


def watch(network: Network, tap: Tap, watcher: Callable[[torch.Tensor], None]) -> RemovableHandle:
    """Call the watcher with the feature each time that its module runs."""
    module = network.get_submodule(tap.module)
    if tap.side == "output":
        return module.register_forward_hook(lambda *called: watcher(called[-1]))
    return module.register_forward_pre_hook(lambda _module, inputs: watcher(inputs[0]))


@contextmanager
def read_taps(network: Network, addresses: Iterable[str], *, padded: bool = False) -> Iterator[dict[str, torch.Tensor]]:
    """Yield a dictionary of features by address that each forward pass of `network` within the block updates.

    `padded` keeps the padding that a network adds to its input for windows, which its own later parts need.

    The tensors are copies that gradients pass through: later in-place changes by the network do not affect them. The
    hooks are removed when the block ends, however it ends; blocks may nest.
    """
    features: dict[str, torch.Tensor] = {}
    sizes: list[torch.Size] = []
    unique = tuple(dict.fromkeys(addresses))

    def keep(address: str, feature: torch.Tensor) -> None:
        if not padded:  # keep the input's own positions: a network that pads its input has larger features
            h, w = sizes[-1]
            feature = feature[..., :h, :w]
        features[address] = feature.clone()

    with ExitStack() as hooks:
        if unique:
            hooks.enter_context(network.register_forward_pre_hook(lambda _, inputs: sizes.append(inputs[0].shape[-2:])))
        for address in unique:
            tap = network.taps[resolve_tap(network, address)]
            hooks.callback(watch(network, tap, partial(keep, address)).remove)
        yield features


def tap_shapes(network: Network, addresses: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of features for one image of PROBE_SIDE, by running it."""
    like = next(network.parameters())
    image = torch.zeros(1, network.descriptor.channels, PROBE_SIDE, PROBE_SIDE, dtype=like.dtype, device=like.device)
    with torch.no_grad(), read_taps(network, addresses) as features:
        network(image)
    return {address: tuple(feature.shape) for address, feature in features.items()}
