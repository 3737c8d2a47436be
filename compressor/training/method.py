"""A distillation method: a name, weighted terms, and modules that are trained with the student.

Everything else that a method may do is an optional capability: a small protocol, declared once beside the code that
uses it. docs/design/methods.md lists them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeAlias, runtime_checkable

import torch
from torch import nn

from compressor.models.networks.base import Network
from compressor.training.calibration import Calibrated as Calibrated
from compressor.training.calibration import Weights
from compressor.training.step import Step

Terms: TypeAlias = Mapping[str, torch.Tensor]
"""Named, unweighted, differentiable losses."""


class Method(Protocol):
    """A method asks the step for outputs and features, and returns named terms; it never sees the loop."""

    @property
    def name(self) -> str: ...

    @property
    def weights(self) -> Weights: ...

    def modules(self, teacher: Network | None, student: Network) -> nn.ModuleDict:
        """Return projectors, heads, gates: trained with the student, never exported, never averaged.

        A step has them as `step.modules[name]`.
        """
        ...

    def terms(self, step: Step) -> Terms: ...


class PlainMethod:
    """A base for methods that train no modules beside the student."""

    def modules(self, teacher: Network | None, student: Network) -> nn.ModuleDict:
        return nn.ModuleDict()


@runtime_checkable
class FitsNetworks(Protocol):
    """A method that checks the networks it is to work with, or leaves options for them to decide."""

    def fit(self, teacher: Network | None, student: Network) -> Method:
        """Return the method with every option decided; refuse, in one line, networks that it cannot work with.

        Called before anything is written. `teacher` is None where there is none, or where it gives outputs only.
        """
        ...


def fit_methods(methods: Sequence[Method], teacher: Network | None, student: Network) -> tuple[Method, ...]:
    """Return the methods fitted to the networks of a run."""
    return tuple(method.fit(teacher, student) if isinstance(method, FitsNetworks) else method for method in methods)
