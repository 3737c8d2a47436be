"""The protocol of a distillation method: a name, weighted terms, and modules that are trained with the student.

Everything else that a method may do is an optional capability: a small protocol, declared beside the code that uses it.
docs/design/methods.md lists them.

Weights without a published value are calibrated in the first steps of a run, and then frozen. During calibration the
term has weight 0. Then λ = ρ·U/R, with U the mean pixel term and R the mean raw term of those steps, so that the term
starts with the share ρ of the pixel loss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from torch import nn

from compressor.base.errors import SrkdError
from compressor.models.networks.base import Descriptor, Network
from compressor.models.quantisation.description import Quantisation
from compressor.training.step import Step

MAX_CALIBRATION_STEPS = 100
"""The most steps of calibration; runs of under ten times as many steps use a tenth of theirs."""

Terms: TypeAlias = Mapping[str, torch.Tensor]
"""Named, unweighted, differentiable losses."""


@dataclass(frozen=True)
class Calibrated:
    """A calibrated weight: the term's share of the term `against` at the end of calibration."""

    share: float = 0.2
    against: str = "pixel"
    by: str | None = None
    """The observed number used instead of the term, such as a gated term before its gate."""


Weights: TypeAlias = Mapping[str, float | Calibrated]
"""The weights of the terms by name."""


class Method(Protocol):
    """A method: it requests outputs and features from the step and returns named terms, without access to the loop."""

    @property
    def name(self) -> str: ...

    @property
    def weights(self) -> Weights: ...

    def modules(self, teacher: Network | None, student: Network) -> nn.ModuleDict:
        """Return projectors, heads, gates: trained with the student, never exported, never averaged.

        They are available as `step.modules[name]`.
        """
        ...

    def terms(self, step: Step) -> Terms: ...


class PlainMethod:
    """A base class for methods without modules of their own."""

    def modules(self, teacher: Network | None, student: Network) -> nn.ModuleDict:
        """Return the modules that are trained with the student and not exported: none."""
        return nn.ModuleDict()


@runtime_checkable
class FitsNetworks(Protocol):
    """A method that checks the networks it works with, or has options that depend on them."""

    def fit(self, teacher: Network | None, student: Network) -> Method:
        """Return the method with every option decided; refuse unsuitable networks in one line.

        This is called before anything is written. `teacher` is None if there is none, or if it only gives outputs.
        """
        ...


@runtime_checkable
class QuantisesStudent(Protocol):
    """A method that trains a quantised student: the float one is quantised before the first step."""

    @property
    def quantisation(self) -> Quantisation: ...


def quantisation_of(methods: Sequence[Method]) -> Quantisation | None:
    """Return the student's quantisation by the methods, or None."""
    return next((method.quantisation for method in methods if isinstance(method, QuantisesStudent)), None)


def fit_methods(methods: Sequence[Method], teacher: Network | None, student: Network) -> tuple[Method, ...]:
    """Return the methods fitted to the networks of a run."""
    return tuple(method.fit(teacher, student) if isinstance(method, FitsNetworks) else method for method in methods)


@runtime_checkable
class FeedsOtherSizes(Protocol):
    """A method that runs the teacher on images of other sizes than the batch's."""

    def fit_sizes(self, teacher: Descriptor, lr_patch: int, scale: int) -> tuple[Method, str | None]:
        """Return the method for a teacher that accepts these sizes, and a note about anything switched off.

        This is called before the first image is read; an explicit option that the teacher cannot serve is refused.
        """
        ...


def calibration_steps(steps: int) -> int:
    """Return the number of calibration steps for a stage of `steps`."""
    return max(1, min(MAX_CALIBRATION_STEPS, steps // 10))


@dataclass
class TermCalibration:
    """The sums of raw terms over `count` good steps, and the weights calibrated from them; part of the state."""

    weights: dict[str, float] = field(default_factory=dict)
    sums: dict[str, float] = field(default_factory=dict)
    count: int = 0

    def resolve(self, weights: Weights) -> dict[str, float]:
        """Return a number for every term: 0 for one whose calibration is not finished."""
        return {
            name: self.weights.get(name, 0.0) if isinstance(weight, Calibrated) else weight
            for name, weight in weights.items()
        }

    def is_pending(self, weights: Weights) -> bool:
        return any(isinstance(weight, Calibrated) and name not in self.weights for name, weight in weights.items())

    def update(self, raw: Mapping[str, float], weights: Weights, *, steps: int) -> dict[str, float]:
        """Count a good step; after `steps` of them compute the weights, and return the new ones."""
        for name, value in raw.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.count += 1
        if self.count < steps:
            return {}
        new = {
            name: self._weight(name, weight)
            for name, weight in weights.items()
            if isinstance(weight, Calibrated) and name not in self.weights
        }
        self.weights.update(new)
        return new

    def _weight(self, name: str, weight: Calibrated) -> float:
        reference = self.sums.get(weight.against)
        if reference is None:
            raise SrkdError(f"the weight of {name} is calibrated against {weight.against}, and no term has that name")
        total = self.sums[weight.by or name]
        if total <= 0:
            raise SrkdError(
                f"the weight of {name} cannot be calibrated: the term was {total / self.count:g} on average "
                f"over {self.count} steps; give its weight (--set lam=...)"
            )
        return weight.share * reference / total

    def state_dict(self) -> dict[str, Any]:
        # These keys are part of the format of saved states.
        return {"found": dict(self.weights), "sums": dict(self.sums), "seen": self.count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.weights, self.sums, self.count = dict(state["found"]), dict(state["sums"]), int(state["seen"])
