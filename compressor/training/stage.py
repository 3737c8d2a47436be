"""What one stage of a run trains, towards what, and how."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch

from compressor.training.method import Method
from compressor.training.schedule import Schedule

Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True)
class Optimiser:
    """Adam; `clip` bounds the gradient norm (CARN uses 10)."""

    betas: tuple[float, float] = (0.9, 0.99)
    eps: float = 1e-8
    clip: float | None = None


@dataclass(frozen=True)
class Average:
    decay: float = 0.999
    warmup: bool = True


@dataclass(frozen=True)
class Stage:
    """A stage is data: the loop runs one."""

    name: str
    methods: Sequence[Method]
    schedule: Schedule
    optimiser: Optimiser
    average: Average
    precision: Precision = "fp32"
    validate_every: int = 1000

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        """The context in which the student runs; the teacher stays in fp32."""
        if self.precision == "bf16":
            return torch.autocast(device.type, torch.bfloat16)
        return nullcontext()
