"""Exponential moving average of the trained weights."""

from __future__ import annotations

import copy

import torch

from compressor.networks.base import Network


class EMA:
    """θ_ema ← d·θ_ema + (1 - d)·θ after each step, d = min(decay, (1 + n)/(10 + n)) with warm-up, else decay."""

    def __init__(self, network: Network, *, decay: float, warmup: bool) -> None:
        self.network = copy.deepcopy(network).requires_grad_(False).eval()
        self.decay, self.warmup, self.updates = decay, warmup, 0

    @torch.no_grad()
    def update(self, network: Network) -> None:
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates)) if self.warmup else self.decay
        averaged: list[torch.Tensor] = list(self.network.parameters())
        current: list[torch.Tensor] = list(network.parameters())
        torch._foreach_lerp_(averaged, current, 1.0 - decay)  # pyright: ignore[reportPrivateImportUsage]

    def state_dict(self) -> dict[str, object]:
        return {"network": self.network.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: dict[str, object]) -> None:
        self.network.load_state_dict(state["network"])  # type: ignore[arg-type]
        self.updates = int(state["updates"])  # type: ignore[call-overload]
