"""Results of the last computations, by key: several files of one export begin with the same graph."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from compressor.models.networks.base import Network

T = TypeVar("T")

MOST_BYTES = 128_000_000
"""Results are dropped, the oldest first, while they take more than this; a larger one is not kept at all."""


class Recent(Generic[T]):
    """Results that are shared: a caller copies what it changes."""

    def __init__(self, size_of: Callable[[T], int], most_bytes: int = MOST_BYTES) -> None:
        self._size_of, self._most_bytes = size_of, most_bytes
        self._results: OrderedDict[Hashable, tuple[int, T]] = OrderedDict()

    def get(self, key: Hashable, compute: Callable[[], T]) -> T:
        """The result of this key, computed if it is not there."""
        if key in self._results:
            self._results.move_to_end(key)
            return self._results[key][1]
        result = compute()
        self._results[key] = self._size_of(result), result
        while sum(size for size, _ in self._results.values()) > self._most_bytes:
            self._results.popitem(last=False)
        return result


def network_key(network: Network) -> Hashable:
    """A key of everything that a graph of the network depends on."""
    return type(network), repr(network), network.fingerprint()
