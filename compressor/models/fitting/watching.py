"""Observation of layers while a network runs; the pass stops as soon as all requested features are available."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial

import torch

from compressor.models.networks.base import Network, Tap
from compressor.models.networks.taps import watch


class AllSeen(Exception):
    """Raised to end a forward pass whose rest is not needed."""


@contextmanager
def watched(network: Network, taps: Iterable[Tap], watcher: Callable[[Tap, torch.Tensor], None]) -> Iterator[None]:
    """Call the watcher with each tap's feature whenever its module runs within the block."""
    with ExitStack() as hooks:
        for tap in dict.fromkeys(taps):
            hooks.callback(watch(network, tap, partial(watcher, tap)).remove)
        yield


def features_at(network: Network, calls: Mapping[Tap, int], run: Callable[[], object]) -> dict[Tap, list[torch.Tensor]]:
    """Return the features by tap, one for each call of its module in a pass; `calls` is the number of calls.

    `run` runs the network, which is stopped once all features are available.
    """
    features_by_tap: dict[Tap, list[torch.Tensor]] = {tap: [] for tap in calls}

    def keep(tap: Tap, feature: torch.Tensor) -> None:
        features_by_tap[tap].append(feature)
        if all(len(features) >= calls[seen] for seen, features in features_by_tap.items()):
            raise AllSeen

    with watched(network, features_by_tap, keep), suppress(AllSeen):
        run()
    return features_by_tap


def sizes_at(network: Network, taps: Iterable[Tap], patches: torch.Tensor) -> dict[Tap, list[torch.Size]]:
    """Return the sizes of the features by tap, one for each call of its module in a pass."""
    sizes: dict[Tap, list[torch.Size]] = {tap: [] for tap in taps}
    with watched(network, sizes, lambda tap, feature: sizes[tap].append(feature.size())), torch.no_grad():
        network(patches)
    return sizes
