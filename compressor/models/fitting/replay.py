"""Caching of final module outputs: a stage with many layers is run once for each of them.

The output of a module call is final if the call ends before the first unsolved layer runs: nothing before that will
change. Such outputs are cached; those of nested calls are then no longer needed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

import torch

from compressor.models.fitting.feature_store import FeatureStore
from compressor.models.networks.base import Network

Path: TypeAlias = tuple[object, ...]
"""The path of a call: for each enclosing module and the module itself, its name and its index among the calls of that
name within the enclosing call."""


@dataclass
class _Call:
    """A running call, and the final calls within it."""

    path: Path
    counts: Counter[str] = field(default_factory=Counter)
    final: list[Path] = field(default_factory=list)


class Replay:
    """A cache of module outputs of a network in a store, active within its block."""

    def __init__(self, network: Network, store: FeatureStore) -> None:
        self.network, self.store = network, store
        self.unsolved: set[str] = set()
        self.kept: set[Path] = set()
        self._running: list[_Call] = []
        self._is_final = False

    def __enter__(self) -> Replay:
        """Wrap the forward methods of modules with weights, so that they may return cached outputs."""
        for name, module in self.network.named_modules():
            if name and next(module.parameters(), None) is not None:
                vars(module)["forward"] = partial(self._forward, name, module.forward)
        return self

    def __exit__(self, *error: object) -> None:
        for module in self.network.modules():
            vars(module).pop("forward", None)

    def begin(self, layers: Iterable[str]) -> None:
        for path in self.kept:
            self.store.discard(path)
        self.kept.clear()
        self.unsolved = set(layers)

    @contextmanager
    def of(self, batch: object) -> Iterator[None]:
        """Cache within the block, in which the network runs once on a batch."""
        self._running, self._is_final = [_Call(("replay", batch))], True
        yield
        self._is_final = False

    def _forward(self, name: str, forward: Callable[..., Any], *inputs: Any, **options: Any) -> Any:
        self._is_final = self._is_final and name not in self.unsolved
        if not self._is_final:
            return forward(*inputs, **options)
        outer = self._running[-1]
        call = _Call((*outer.path, name, outer.counts[name]))
        outer.counts[name] += 1
        if call.path in self.kept:
            outer.final.append(call.path)
            return self.store[call.path]
        self._running.append(call)
        output = forward(*inputs, **options)
        self._running.pop()
        if isinstance(output, torch.Tensor) and self._is_final:  # it may have run an unsolved layer
            self.store[call.path] = output
            self.kept.add(call.path)
            outer.final.append(call.path)
            for path in call.final:
                self.store.discard(path)
                self.kept.discard(path)
        return output
