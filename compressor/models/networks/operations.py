"""Watching torch's operations: their multiply-accumulates, and the bytes of live tensors."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry


def macs_of(function: Any, arguments: tuple[Any, ...], options: Mapping[str, Any], result: Any) -> int:
    """Return the multiply-accumulates of an operation; 0 for one that torch does not count."""
    rule = flop_registry.get(function.overloadpacket)
    return 0 if rule is None else rule(*arguments, **options, out_val=result) // 2


class WatchedOperations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A mode that calls `after` with every operation and its result."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

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


class LiveBytes(WatchedOperations):  # type: ignore[no-untyped-call]
    """The bytes of live tensors that were created within the block, and their peak."""

    def __init__(self) -> None:
        super().__init__()
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
