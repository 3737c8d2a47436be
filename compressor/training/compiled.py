"""A network's forward through torch.compile, where that pays: long runs on a GPU.

On CUDA the mode is `reduce-overhead`: kernels are fused and each forward and backward is recorded once as a CUDA graph
and replayed, so that small convolutions no longer wait for Python. On CPU compilation adds nothing to a training step
of these networks (measured: 1.0 times), so there it happens only when asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias, cast

import torch

from compressor.networks.base import Network
from compressor.progress import Announce

Compile = Literal["auto", "on", "off"]
Forwarder: TypeAlias = Callable[[torch.Tensor], torch.Tensor]

WORTH_STEPS = 2000
"""Compilation takes about a minute: shorter runs are over sooner without."""


def wants_compilation(asked: Compile, *, device: torch.device, steps: int) -> bool:
    if asked == "auto":
        return device.type == "cuda" and steps >= WORTH_STEPS
    return asked == "on"


class CompiledAtFirst:
    """`network`'s forward: compiled at the first call, eager for good (and one line says so) where that fails."""

    def __init__(self, network: Network, *, trains: bool, announce: Announce) -> None:
        self.network, self.trains, self.announce = network, trains, announce
        self._forward: Forwarder | None = None

    def __call__(self, lr: torch.Tensor) -> torch.Tensor:
        if self._forward is None:
            self._forward = self._compiled(lr)
        return self._forward(lr)

    def _compiled(self, lr: torch.Tensor) -> Forwarder:
        """Tried forward and backward in the caller's precision, because backward is compiled on its own."""
        mode = "reduce-overhead" if lr.device.type == "cuda" else "default"
        forward = cast(Forwarder, torch.compile(self.network, mode=mode, dynamic=False))
        try:
            sr = forward(lr)
            if self.trains:
                torch.autograd.backward(sr.float().mean())
                self.network.zero_grad(set_to_none=True)
        except Exception as error:  # noqa: BLE001 - a compiler raises what its back ends raise; eager always works
            told = str(error).strip().splitlines() or [type(error).__name__]
            self.announce(f"torch.compile failed, so training goes on without it: {told[0][:160]}")
            torch.compiler.reset()
            return self.network
        return forward


def begin_step() -> None:
    """Tell CUDA graphs that outputs of the last step may be overwritten."""
    torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
