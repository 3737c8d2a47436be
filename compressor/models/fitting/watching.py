"""Watch layers while a network runs, and stop it as soon as everything has been seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch

from compressor.models.networks.base import Network, Tap


class AllSeen(Exception):
    """Ends a forward pass of which the rest is not needed."""


@contextmanager
def watched(network: Network, taps: Iterable[Tap], calls: Mapping[Tap, int]) -> Iterator[dict[Tap, list[torch.Tensor]]]:
    """Yield the features by tap, one for each time that the module runs; the pass ends once all of them are there.

    `calls` says how often each module runs in a pass.
    """
    seen: dict[Tap, list[torch.Tensor]] = {tap: [] for tap in taps}

    def keep(tap: Tap, feature: torch.Tensor) -> None:
        seen[tap].append(feature)
        if all(len(features) >= calls[one] for one, features in seen.items()):
            raise AllSeen

    handles = [_register(network, tap, keep) for tap in seen]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _register(
    network: Network, tap: Tap, keep: Callable[[Tap, torch.Tensor], None]
) -> torch.utils.hooks.RemovableHandle:
    module = network.get_submodule(tap.module)
    if tap.side == "output":
        return module.register_forward_hook(lambda _module, _inputs, output: keep(tap, output))
    return module.register_forward_pre_hook(lambda _module, inputs: keep(tap, inputs[0]))


def count_calls(network: Network, taps: Iterable[Tap], patches: torch.Tensor) -> Counter[Tap]:
    """Count how often each module runs when the network does."""
    calls: Counter[Tap] = Counter()

    def count(tap: Tap, _feature: torch.Tensor) -> None:
        calls[tap] += 1

    handles = [_register(network, tap, count) for tap in set(taps)]
    try:
        with torch.no_grad():
            network(patches)
    finally:
        for handle in handles:
            handle.remove()
    return calls
