"""What methods share that look through φ: its option, and the one φ of a run, found before anything is trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, cast

from pydantic import Field
from torch import nn

from compressor.base.context import Progress, no_progress
from compressor.base.errors import SrkdError, UsageError
from compressor.models.networks.base import Network
from compressor.training.method import Method, PlainMethod
from recipes.phi import Choice, Resolved, resolve_phi
from recipes.terms.perceptual import plan_teacher_phi


@dataclass(frozen=True)
class UsesPerceptualNet(PlainMethod):
    """`step.helpers[self.name]["phi"]` is φ: frozen, made anew at each start, not saved."""

    phi: Annotated[
        Choice, Field(description="VGG-19 or the teacher's first blocks; auto: VGG-19 where it can be had")
    ] = "auto"
    resolved: Resolved | None = None
    """What `phi` came to; `bind_phi` fills it in."""
    name: str = ""

    @property
    def is_the_teachers(self) -> bool:
        return self.phi == "teacher" if self.resolved is None else self.resolved.kind == "teacher"

    def fit(self, teacher: Network | None, student: Network) -> Method:
        if self.is_the_teachers and teacher is not None:
            # Remembered: what a dry run counts afterwards is not mixed with the counting of φ.
            plan_teacher_phi(teacher.spec)
        return cast(Method, self)

    def helpers(self, teacher: Network | None, student: Network) -> nn.ModuleDict:
        """`teacher` is the one that was loaded, also where a copy of it is trained."""
        if self.resolved is None and self.phi != "teacher":
            raise SrkdError(f"phi={self.phi} of {self.name} has not been resolved: pass the method through `bind_phi`")
        return nn.ModuleDict({"phi": (self.resolved or resolve_phi("teacher")).build(teacher)})


def find_phi(
    methods: Sequence[Method], weights: Path | None, *, download: bool = True, progress: Progress = no_progress
) -> Resolved | None:
    """The φ that these methods look through, or None where none does; `weights` is the file of `--phi-weights`."""
    through = [method for method in methods if isinstance(method, UsesPerceptualNet)]
    if not through:
        if weights is not None:
            names = ", ".join(method.name for method in methods)
            raise UsageError(f"--phi-weights {weights}: {names} looks through no VGG-19; leave it out")
        return None
    forced: dict[Choice, str] = {method.phi: method.name for method in through if method.phi != "auto"}
    if len(forced) > 1:
        told = " and ".join(f"{phi} in {name}" for phi, name in forced.items())
        raise UsageError(f"phi is {told}: a run has one, --set phi=vgg19 or --set phi=teacher")
    choice: Choice = next(iter(forced)) if forced else "auto"
    return resolve_phi(choice, weights, download=download, progress=progress)


def bind_phi(methods: Sequence[Method], resolved: Resolved | None) -> tuple[Method, ...]:
    """The methods, with the φ that was found."""
    return tuple(
        dataclasses.replace(method, resolved=resolved) if isinstance(method, UsesPerceptualNet) else method
        for method in methods
    )
