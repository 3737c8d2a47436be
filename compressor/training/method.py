"""Weights that nobody published: found in the first steps of a run, and frozen.

While it lasts, a term that is to be calibrated has weight 0. Then λ = ρ·U/R with U the mean pixel term and R the mean
raw term of those steps, so that the term begins with the share ρ of the pixel loss.

What a distillation method is to the loop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias, TypeVar

import torch
from torch import nn

from compressor.base.errors import SrkdError
from compressor.data.batches import View
from compressor.models.networks.axes import Segments
from compressor.models.networks.base import Network, Spec
from compressor.training.step import Step

LONGEST = 100
"""Steps; a tenth of a short run."""


@dataclass(frozen=True)
class Calibrated:
    """In place of a number: the term's share of the term called `against` when training begins in earnest."""

    share: float = 0.2
    against: str = "pixel"
    by: str | None = None
    """What is measured in place of the term: a number that the method observes, as a gated term is before its gate."""


def calibration_steps(steps: int) -> int:
    return max(1, min(LONGEST, steps // 10))


@dataclass
class Calibration:
    """Sums of raw terms over the good steps seen, and the weights that were found; part of the state."""

    found: dict[str, float] = field(default_factory=dict)
    sums: dict[str, float] = field(default_factory=dict)
    seen: int = 0

    def weights(self, asked: Mapping[str, float | Calibrated]) -> dict[str, float]:
        """A number for every term: 0 for what is still being calibrated."""
        return {
            name: self.found.get(name, 0.0) if isinstance(weight, Calibrated) else weight
            for name, weight in asked.items()
        }

    def open(self, asked: Mapping[str, float | Calibrated]) -> bool:
        """Whether a weight is still to be found."""
        return any(isinstance(weight, Calibrated) and name not in self.found for name, weight in asked.items())

    def see(self, raw: Mapping[str, float], asked: Mapping[str, float | Calibrated], *, steps: int) -> dict[str, float]:
        """Count a good step; after `steps` of them the weights are set, and returned once."""
        for name, value in raw.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.seen += 1
        if self.seen < steps:
            return {}
        new = {
            name: self._weight(name, weight)
            for name, weight in asked.items()
            if isinstance(weight, Calibrated) and name not in self.found
        }
        self.found.update(new)
        return new

    def _weight(self, name: str, weight: Calibrated) -> float:
        reference = self.sums.get(weight.against)
        if reference is None:
            raise SrkdError(f"the weight of {name} is calibrated against {weight.against}, and no term has that name")
        found = self.sums[weight.by or name]
        if found <= 0:
            raise SrkdError(
                f"the weight of {name} cannot be calibrated: the term was {found / self.seen:g} on average "
                f"over {self.seen} steps; give its weight (--set lam=...)"
            )
        return weight.share * reference / found

    def state_dict(self) -> dict[str, Any]:
        return {"found": dict(self.found), "sums": dict(self.sums), "seen": self.seen}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.found, self.sums, self.seen = dict(state["found"]), dict(state["sums"]), int(state["seen"])


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
