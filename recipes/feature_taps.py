"""Where a feature method compares student and teacher: pairs of taps, the usual ones or those that were asked for.

Every tap is a map of the LR image's own size (methods that compare positions need that), so that any two of our
networks can be paired: EDSR with RCAN, CARN with SwinIR, and channels may differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, cast

import torch
from pydantic import Field
from torch import nn

from compressor.base.errors import SrkdError, UsageError
from compressor.models.networks.base import Network
from compressor.models.taps import tap_shapes
from compressor.training.step import Step
from recipes.composition import Kind
from recipes.gating import Gated
from recipes.tap_check import Compared, Shape, own_taps
from recipes.terms.matching import regressor

TAPS = Field(description="of the student: head, body[k], rel(p), body_end, pre_up; none: the usual ones")
Share = Annotated[float, Field(ge=0.1, le=0.3, description="of the pixel loss, that the calibrated term begins with")]
TEACHER_TAPS = Field(description="of the teacher, one for each of the student's; none: the same, or its usual ones")


@dataclass(frozen=True)
class Matched:
    """What both networks gave: images, and features tap by tap, the student's first."""

    student: torch.Tensor
    teacher: torch.Tensor
    features: list[tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class FeatureMethod(Gated):
    """What the methods on features share; `term` is the name of the term that compares them."""

    taps: Annotated[tuple[str, ...], TAPS] = ()
    teacher_taps: Annotated[tuple[str, ...], TEACHER_TAPS] = ()
    name: str = ""
    kind: Kind = "feature"
    term: ClassVar[str]
    last: ClassVar[str] = "pre_up"

    def usual_taps(self, network: Network) -> tuple[str, ...]:
        return (third(network, 1), third(network, 2), self.last)

    def pairs(self, student: Network, teacher: Network) -> list[tuple[str, str]]:
        """The networks' own names of the taps, the student's first; what is wrong names the side."""
        ours = self.taps or self.usual_taps(student)
        theirs = self.teacher_taps or self.taps or self.usual_taps(teacher)
        if len(ours) != len(theirs):
            raise UsageError(
                f"{self.name}: {len(ours)} taps of the student ({', '.join(ours)}) and {len(theirs)} of the teacher "
                f"({', '.join(theirs)}): give as many teacher_taps as taps"
            )
        sides = (("student", student, ours), ("teacher", teacher, theirs))
        return list(zip(*(own_taps(self.name, *side) for side in sides), strict=True))

    def matched(self, step: Step) -> Matched:
        """Run both networks on the batch with their features."""
        pairs = self.pairs(*step.networks)
        # The teacher first: where it gives the labels too, it then runs once.
        theirs = step.teacher(taps=[tap for _, tap in pairs])
        ours = step.student(taps=[tap for tap, _ in pairs])
        features = [(ours.features[a], theirs.features[b]) for a, b in pairs]
        return Matched(ours.sr, theirs.sr, features)

    def compares(self, teacher: Network | None, student: Network) -> list[Compared]:
        return [Compared(self.term, a, b, self.bytes_of) for a, b in self.pairs(student, known(teacher))]

    def bytes_of(self, student: Shape, teacher: Shape, processes: int) -> int:
        raise NotImplementedError


def third(network: Network, thirds: int) -> str:
    """rel(1/3) or rel(2/3); in a body too short for it what precedes the body, as in FAKD's code."""
    blocks = sum(name.startswith("body[") for name in network.taps)
    return f"rel({thirds}/3)" if thirds * blocks >= 3 else "head"


def known(teacher: Network | None) -> Network:
    """A teacher whose features can be read."""
    if teacher is None:
        raise SrkdError("features of the teacher are needed: it must be one of our networks")
    return teacher


def regressors(method: FeatureMethod, teacher: Network | None, student: Network) -> nn.ModuleList:
    """A 1×1 convolution for each pair of taps, from the student's channels to the teacher's; by the run's seed."""
    pairs, master = method.pairs(student, known(teacher)), known(teacher)
    ours = tap_shapes(student, [tap for tap, _ in pairs])
    theirs = tap_shapes(master, [tap for _, tap in pairs])
    # Whoever asks for modules has set torch's generator: its seed is the run's.
    seed = torch.initial_seed()
    return nn.ModuleList(regressor(ours[a][1], theirs[b][1], seed=seed + index) for index, (a, b) in enumerate(pairs))


def learned(step: Step, method: FeatureMethod) -> nn.ModuleList:
    """The regressors as the run has trained them."""
    return cast(nn.ModuleList, cast(nn.ModuleDict, step.modules[method.name])["regressors"])
