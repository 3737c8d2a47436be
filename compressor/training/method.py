"""What a distillation method is to the loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, TypeVar

import torch
from torch import nn

from compressor.data.batches import View
from compressor.networks.axes import Segments
from compressor.networks.base import Network, Spec
from compressor.training.calibration import Calibrated
from compressor.training.step import Step

Terms: TypeAlias = Mapping[str, torch.Tensor]
"""Named, unweighted, differentiable losses."""

Weights: TypeAlias = Mapping[str, float | Calibrated]

Role = Literal["student", "teacher", "joint"]
"""Who is trained: the student; a copy of the teacher, which teaches the stages after; or a copy of the teacher with the
students inside it."""


Kind = Literal["pixel", "output", "feature", "data", "contrast", "heads", "bands", "joint", "quantised"]
"""What a method adds to the pixel loss; recipes say which kinds go together (methods of one field, one place)."""


@dataclass(frozen=True)
class Prelude:
    """A stage that a method wants before its own: `share` of its steps, at a rate of its own."""

    name: str
    method: Method
    trains: Role
    share: float
    rate: float


Shape: TypeAlias = Sequence[int]
"""Of a feature, N,C,h,w."""


@dataclass(frozen=True)
class Compared:
    """Features that a term compares, by their taps, checked and told before training; of the student alone where the
    term asks the teacher for none.

    `bytes_of(student, teacher, processes)` is what the term takes at its peak beside them, from their shapes.
    """

    term: str
    student: str
    teacher: str | None
    bytes_of: Callable[[Shape, Shape, int], int]


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
    def weights(self) -> Weights:
        """The weight of each term, by its name."""
        ...

    @property
    def kind(self) -> Kind: ...

    @property
    def trains(self) -> Role:
        """Who learns from the terms."""
        ...

    @property
    def updates(self) -> int:
        """Updates a step: the optimiser moves after each part of it, and gradients are cleared before the first."""
        ...

    @property
    def smallest_batch(self) -> int:
        """Patches a step, over all processes, below which the terms mean nothing."""
        ...

    def compares(self, teacher: Network | None, student: Network) -> Sequence[Compared]:
        """The pairs of features that the terms compare, or features of the student that they build on."""
        ...

    @property
    def segments(self) -> Segments:
        """How a student inside the teacher reads the concatenations of its fusions."""
        ...

    def check(self, teacher: Network | None, student: Network) -> None:
        """Refuse, in one line, networks that it cannot work with; asked before anything is written.

        `teacher` is None where there is none, or where it gives outputs only.
        """
        ...

    def fitted(self, teacher: Network | None, student: Network) -> Method:
        """The method with what it leaves to the networks decided; asked before anything is written.

        `teacher` is None where there is none, or where it gives outputs only.
        """
        ...

    def branches(self, teacher: Spec) -> Sequence[Spec]:
        """Students inside the teacher that are trained beside the student: step.student(branch=1) and so on."""
        ...

    def preludes(self) -> Sequence[Prelude]:
        """Stages before the method's own."""
        ...

    def modules(self, teacher: Network | None, student: Network) -> nn.ModuleDict:
        """Projectors, heads, gates: trained with the student, never exported, never averaged. `step.modules[name]`."""
        ...

    def helpers(self, teacher: Network | None, student: Network) -> nn.ModuleDict:
        """Frozen networks that the terms look through: neither trained nor saved. `step.helpers[name]`."""
        ...

    def terms(self, step: Step) -> Terms: ...


M = TypeVar("M", bound="PlainMethod")


class PlainMethod:
    """What a method is unless it says otherwise: one update of the student alone, no stage before it."""

    kind: Kind = "pixel"
    trains: Role = "student"
    updates: int = 1
    teacher_views: Sequence[View] = ()
    smallest_batch: int = 1

    def compares(self, teacher: Network | None, student: Network) -> Sequence[Compared]:
        return ()

    @property
    def segments(self) -> Segments:
        return "each"

    def check(self, teacher: Network | None, student: Network) -> None:
        pass

    def fitted(self: M, teacher: Network | None, student: Network) -> M:
        return self

    def branches(self, teacher: Spec) -> Sequence[Spec]:
        return ()

    def preludes(self) -> Sequence[Prelude]:
        return ()

    def modules(self, teacher: Network | None, student: Network) -> nn.ModuleDict:
        return nn.ModuleDict()

    def helpers(self, teacher: Network | None, student: Network) -> nn.ModuleDict:
        return nn.ModuleDict()
