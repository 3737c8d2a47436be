"""Watch layers while a network runs, and stop it as soon as everything has been seen."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial

import torch

from compressor.models.networks.base import Network, Tap
from compressor.models.taps import watch


class AllSeen(Exception):
    """Ends a forward pass of which the rest is not needed."""


@contextmanager
def watched(network: Network, taps: Iterable[Tap], watcher: Callable[[Tap, torch.Tensor], None]) -> Iterator[None]:
    """Within the block the watcher gets each tap's feature whenever its module runs."""
    with ExitStack() as hooks:
        for tap in dict.fromkeys(taps):
            hooks.callback(watch(network, tap, partial(watcher, tap)).remove)
        yield


def features_at(network: Network, calls: Mapping[Tap, int], run: Callable[[], object]) -> dict[Tap, list[torch.Tensor]]:
    """Return the features by tap, one for each time that the module runs in a pass; `calls` says how often.

    `run` runs the network, which ends once all of them are there.
    """
    seen: dict[Tap, list[torch.Tensor]] = {tap: [] for tap in calls}

    def keep(tap: Tap, feature: torch.Tensor) -> None:
        seen[tap].append(feature)
        if all(len(features) >= calls[one] for one, features in seen.items()):
            raise AllSeen

    with watched(network, seen, keep), suppress(AllSeen):
        run()
    return seen


def sizes_at(network: Network, taps: Iterable[Tap], patches: torch.Tensor) -> dict[Tap, list[torch.Size]]:
    """Return the size of each feature, one for each time that the module runs when the network does."""
    sizes: dict[Tap, list[torch.Size]] = {tap: [] for tap in taps}
    with watched(network, sizes, lambda tap, feature: sizes[tap].append(feature.size())), torch.no_grad():
        network(patches)
    return sizes
