"""Modules that a method trains beside the student start from weights that depend on a seed alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


def initialised(seed: int, make: Callable[[], M]) -> M:
    """What `make` builds, on the CPU, with torch's global generator left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def next_seed() -> int:
    """Drawn from torch's generator, which a run sets anew for each method's modules: a module of several, its own."""
    return int(torch.randint(2**62, (), device="cpu").item())
