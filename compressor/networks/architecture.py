"""What a network's file offers to the rest of the ground."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from compressor.networks.axes import AxisPlan
from compressor.networks.base import Network, Spec
from compressor.networks.dialect import Dialect


@dataclass(frozen=True)
class Architecture:
    """Spec, network, axis plan and dialects of one family."""

    spec: type[Spec]
    build: Callable[[Any], Network]
    axes: Callable[[Any], AxisPlan]
    dialects: tuple[Dialect, ...] = field(default=())

    @property
    def name(self) -> str:
        return self.spec.arch
