"""FACD-style's gate for losses with a value per sample: learn from the teacher only on patches where it is better.

    1/B Σ_i a_i·ℓ_i
    hard  a_i = 1[L1(T_i, y_i) < L1(S_i, y_i)],   soft  sigmoid((L1(S_i, y_i) - L1(T_i, y_i)) / τ_g),   off  1

τ_g is the standard deviation of the gap between the errors over all samples so far, this step's included; from HORIZON
steps on, of an exponential average of that length. [choice], docs/methods/facd.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal, TypeAlias, cast

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F

from compressor.models.networks.base import Network
from compressor.training.method import Method
from compressor.training.step import Step
from recipes.composition import GATED_IMAGE_TERM, IMAGE_TERM
from recipes.terms.distances import sample_l1

HORIZON = 100
MIN_SPREAD = 1e-12
Gate: TypeAlias = Literal["hard", "soft", "off"]
GATE = Field(
    description="learn from the teacher where it is better on a patch (hard), gradually so (soft), or always (off)"
)


@dataclass(frozen=True)
class Gated(Method):
    """A method whose `terms` may exclude patches; the share of patches that pass is logged as `seen/gate_open`."""

    gate: Annotated[Gate, GATE] = field(default="off", kw_only=True)

    @property
    def image_term(self) -> str:
        """The name of the L1 to the teacher's image. With a gate it is another quantity, shared by no other method."""
        return IMAGE_TERM if self.gate == "off" else GATED_IMAGE_TERM

    def modules(self, teacher: Network | None, student: Network) -> nn.ModuleDict:
        """Return the running statistics of the soft gate."""
        return nn.ModuleDict({"spread": RunningSpread()} if self.gate == "soft" else {})

    def gate_values(self, step: Step, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """Return each patch's gate, `a` in the paper, from both images."""
        if self.gate == "off":
            return student.new_ones(len(student))
        # Above 0 if the teacher is better.
        gap = (sample_l1(student, step.hr) - sample_l1(teacher, step.hr)).detach()
        if self.gate == "hard":
            values = (gap > 0).to(gap.dtype)
        else:
            running = cast(RunningSpread, step.modules[self.name]["spread"])
            moments = running.moments_with(step.all_gather(gap))
            step.after_update(lambda: running.moments.copy_(moments))
            values = torch.sigmoid(gap / running.deviation(moments).to(gap.dtype).clamp_min(MIN_SPREAD))
        step.observe("gate_open", values.mean())
        return values

    def image_loss(self, gate: torch.Tensor, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """Return the gated L1 to the teacher's image."""
        return F.l1_loss(student, teacher) if self.gate == "off" else (gate * sample_l1(student, teacher)).mean()


class RunningSpread(nn.Module):
    """The running standard deviation of a per-sample number.

    Its moments are a buffer, saved with a method's modules, so that a resumed run has the same.
    """

    moments: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("moments", torch.zeros(3))

    def moments_with(self, values: torch.Tensor) -> torch.Tensor:
        """Return the number of steps, the mean and the mean square with one more step's values."""
        steps, mean, square = self.moments.unbind()
        steps, values = steps + 1, values.detach().to(mean.dtype)
        share = 1 / steps.clamp_max(HORIZON)
        return torch.stack([steps, mean.lerp(values.mean(), share), square.lerp(values.square().mean(), share)])

    @staticmethod
    def deviation(moments: torch.Tensor) -> torch.Tensor:
        _, mean, square = moments.unbind()
        return (square - mean.square()).clamp_min(0).sqrt()
