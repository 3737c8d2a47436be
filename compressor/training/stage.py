"""One stage of a run: what it trains, with which terms, schedule and optimiser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from compressor.models.networks.axes import Segments
from compressor.training.method import Method, Role
from compressor.training.schedule import Schedule
from compressor.training.speed import PLAIN_MODE, ExecutionMode


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
    pace: ExecutionMode = PLAIN_MODE
    trains: Role = "student"
    segments: Segments = "each"
    """Of a student inside the teacher."""
    updates: int = 1
    weights: Mapping[str, float] = field(default_factory=dict)
    """Of terms by name, in place of the methods' own."""
    validate_every: int = 1000
