"""What a distillation method is to the loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeAlias

import torch
from torch import nn

from compressor.data.batches import View
from compressor.networks.base import Network
from compressor.training.step import Step

Terms: TypeAlias = Mapping[str, torch.Tensor]
"""Named, unweighted, differentiable losses."""


class Method(Protocol):
    """A method asks the step for outputs and features, and returns named terms; it never sees the loop."""

    @property
    def name(self) -> str: ...

    @property
    def needs_teacher(self) -> bool: ...

    @property
    def needs_network(self) -> bool:
        """Whether a teacher must be one of our networks, for its features, parts or weights: outputs are not enough."""
        ...

    @property
    def teacher_views(self) -> Sequence[View]:
        """Inputs for which the teacher's output alone is wanted, so that a cache may give it."""
        ...

    @property
    def weights(self) -> Mapping[str, float]:
        """The weight of each term, by its name."""
        ...

    def modules(self, teacher: Network | None, student: Network) -> nn.ModuleDict:
        """Projectors, heads, gates: trained with the student, never exported, never averaged."""
        ...

    def terms(self, step: Step) -> Terms: ...
