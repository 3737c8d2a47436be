"""Sharing of patches between processes: each measures its own, sums are added up, and choices are the leader's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from compressor.base.processes import Processes

BATCH = 8
"""Number of patches run together: the features between two layers are in memory for all of them."""


@dataclass(frozen=True)
class ShareBatch:
    """Patches that are run together; `first` is the index of the first one among those of all processes."""

    first: int
    lr: torch.Tensor


class Share:
    """This process's share of the patches `lr` (N, C, H, W), which every process has in full; the first has some."""

    def __init__(self, lr: torch.Tensor, device: torch.device, processes: Processes | None = None) -> None:
        self.lr, self.device, self.processes = lr, device, processes or Processes()
        rank = self.processes.rank
        self.start, self.stop = (-(-len(lr) * (rank.index + end) // rank.world_size) for end in (0, 1))

    def batches(self) -> Iterator[ShareBatch]:
        for first in range(self.start, self.stop, BATCH):
            yield ShareBatch(first, self.lr[first : min(first + BATCH, self.stop)].to(self.device))

    def add(self, *sums: torch.Tensor) -> None:
        """Replace each tensor by its sum over the processes: the same bytes on all of them."""
        for tensor in sums:
            self.processes.sum_(tensor)

    def follow(self, *values: torch.Tensor) -> None:
        """Replace each tensor by the leader's: another machine may round, and therefore choose, differently."""
        if self.processes.is_single:
            return
        for value in values:
            whole = value.detach().contiguous()
            if not self.processes.is_leader:
                whole.zero_()
            self.processes.sum_(whole)
            value.copy_(whole)
