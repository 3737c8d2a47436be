"""Features that methods compare: taps validated before training, their pairs, 1×1 regressors between them.

A tap is a map of the LR image's size (methods that compare positions need that), so networks of different kinds can be
paired: EDSR with RCAN, CARN with SwinIR, and channels may differ. Of a network that first unshuffles it is smaller.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, cast

import torch
from pydantic import Field
from torch import nn

from compressor.base.errors import SrkdError, UsageError
from compressor.base.randomness import torch_seed
from compressor.models.networks.base import Network
from compressor.models.networks.taps import PROBE_SIDE, resolve_tap, tap_shapes
from compressor.training.method import FeaturePair, Kind, Method
from compressor.training.step import Step
from recipes.terms.distances import widen

Share = Annotated[float, Field(ge=0.1, le=0.3, description="initial share of the pixel loss, for the calibrated term")]
TAPS = Field(description="features of the student: head, body[k], rel(p), body_end, pre_up; empty: the usual ones")
TEACHER_TAPS = Field(
    description="features of the teacher, one for each of the student's; empty: the same, or its usual ones"
)


def resolve_taps(method: str, side: str, network: Network, addresses: Sequence[str]) -> list[str]:
    """Return the network's own names of taps; an error names the method and the side."""
    try:
        return [resolve_tap(network, address) for address in addresses]
    except UsageError as error:
        raise UsageError(f"{method}, taps of the {side}: {error}") from error


def describe_taps(
    methods: Sequence[Method], teacher: Network | None, student: Network, *, batch: int, lr_patch: int
) -> list[str]:
    """Return one line for each pair of features that the methods compare; `batch` is that of one process."""

    def shapes(network: Network, taps: Sequence[str]) -> dict[str, tuple[int, ...]]:
        """Return the shapes in the run's own batches."""
        shapes = tap_shapes(network, taps).items()
        return {tap: (batch, shape[1], *(lr_patch * side // PROBE_SIDE for side in shape[2:])) for tap, shape in shapes}

    lines = []
    for method in methods:
        pairs = method.feature_pairs(teacher, student)
        teacher_taps = [pair.teacher for pair in pairs if pair.teacher is not None]
        student_shapes = shapes(student, [pair.student for pair in pairs]) if pairs else {}
        teacher_shapes = shapes(require_network(teacher), teacher_taps) if teacher_taps else {}
        for pair in pairs:
            student_shape, teacher_shape = student_shapes[pair.student], teacher_shapes.get(pair.teacher or "", ())
            sides = f"student {pair.student} {'x'.join(map(str, student_shape))}"
            if pair.teacher is not None:
                sides += f" with teacher {pair.teacher} {'x'.join(map(str, teacher_shape))}"
                if student_shape[2:] != teacher_shape[2:]:
                    raise UsageError(f"{method.name} compares features of one size, not {sides}: take --recipe logits")
            lines.append(f"{method.name}: {pair.term} of {sides}")
    return lines


@dataclass(frozen=True)
class PairedForward:
    """The images of both networks, and their features by tap, the student's first."""

    student: torch.Tensor
    teacher: torch.Tensor
    features: list[tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class FeatureMethod(Method):
    """A method that compares features in the term called `term`."""

    taps: Annotated[tuple[str, ...], TAPS] = ()
    teacher_taps: Annotated[tuple[str, ...], TEACHER_TAPS] = ()
    name: str = ""
    kind: Kind = "feature"
    term: ClassVar[str] = "features"
    last: ClassVar[str] = "pre_up"

    def usual_taps(self, network: Network) -> tuple[str, ...]:
        """Return the default taps: by thirds of the body (`head` in a short one, as in FAKD's code), and the last."""
        blocks = sum(name.startswith("body[") for name in network.taps)
        return (*(f"rel({thirds}/3)" if thirds * blocks >= 3 else "head" for thirds in (1, 2)), self.last)

    def tap_pairs(self, teacher: Network | None, student: Network) -> list[tuple[str, str]]:
        """Return the networks' own names of the taps, the student's first; an error names the side."""
        teacher = require_network(teacher)
        student_taps = self.taps or self.usual_taps(student)
        teacher_taps = self.teacher_taps or self.taps or self.usual_taps(teacher)
        if len(student_taps) != len(teacher_taps):
            raise UsageError(
                f"{self.name}: {len(student_taps)} taps of the student ({', '.join(student_taps)}) and "
                f"{len(teacher_taps)} of the teacher ({', '.join(teacher_taps)}): give as many teacher_taps as taps"
            )
        student_names = resolve_taps(self.name, "student", student, student_taps)
        return list(zip(student_names, resolve_taps(self.name, "teacher", teacher, teacher_taps), strict=True))

    def run_networks(self, step: Step) -> PairedForward:
        """Return the outputs and features of both networks on the batch."""
        student, teacher = step.networks
        pairs = self.tap_pairs(teacher, student)
        # Run the teacher first: if it also gives the labels, it then runs once.
        target = step.teacher(taps=[tap for _, tap in pairs])
        output = step.student(taps=[tap for tap, _ in pairs])
        features = [(output.features[tap], target.features[teacher_tap]) for tap, teacher_tap in pairs]
        return PairedForward(output.sr, target.sr, features)

    def feature_pairs(self, teacher: Network | None, student: Network) -> list[FeaturePair]:
        return [FeaturePair(self.term, *taps) for taps in self.tap_pairs(teacher, student)]


@dataclass(frozen=True)
class RegressedFeatureMethod(FeatureMethod):
    """A feature method that first converts the student's to the teacher's channels, by one 1×1 convolution per tap."""

    def modules(self, teacher: Network | None, student: Network) -> nn.ModuleDict:
        pairs, teacher = self.tap_pairs(teacher, student), require_network(teacher)
        inputs = tap_shapes(student, [tap for tap, _ in pairs])
        outputs = tap_shapes(teacher, [tap for _, tap in pairs])
        # The caller has seeded torch's generator by the run's seed.
        seed, regressors = torch.initial_seed(), nn.ModuleList()
        for index, (tap, teacher_tap) in enumerate(pairs):
            with torch_seed(seed + index):
                regressors.append(nn.Conv2d(inputs[tap][1], outputs[teacher_tap][1], 1))
        return nn.ModuleDict({"regressors": regressors, **super().modules(teacher, student)})

    def regress(self, step: Step, forward: PairedForward) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Return the regressed features u of the student, each with the teacher's feature."""
        regressors = cast(nn.ModuleList, step.modules[self.name]["regressors"])
        # The features may have half precision; the weights of a regressor are fp32.
        return [
            (regressor(widen(feature)), target)
            for regressor, (feature, target) in zip(regressors, forward.features, strict=True)
        ]


def require_network(teacher: Network | None) -> Network:
    """Return the teacher's network; refuse a teacher that only gives outputs."""
    if teacher is None:
        raise SrkdError("features of the teacher are needed: it must be one of srkd's networks")
    return teacher
