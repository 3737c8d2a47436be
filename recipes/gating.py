"""FACD-style's gate for the losses that have a value a sample: learn from the teacher where it is the better one.

    1/B Σ_i a_i·ℓ_i,   a_i = 1[L1(T_i, y_i) < L1(S_i, y_i)], or softly, or 1     (terms/contrast.py)

[choice] FACD's abstract says that distillation acts by the patch; which losses it may choose among is ours: the
teacher's image, FAKD's affinities and LFD-style's features have a value a sample. CSD's contrast has not (one ratio for
the whole batch), and the heads of DS and CLSD-style learn from labels alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, cast

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F

from compressor.models.networks.base import Network
from compressor.training.method import Method, PlainMethod
from compressor.training.step import Step
from recipes.composition import GATED, WHOLE
from recipes.terms.contrast import Gate, error_gap, gate_of
from recipes.terms.distances import sample_l1
from recipes.terms.spread import RunningSpread

GATE = Field(description="learn of a patch where the teacher is better (hard), softly so, or always (off)")


@dataclass(frozen=True)
class Gated(PlainMethod):
    """`opened` is a of each sample; the share that passes is logged as `seen/gate_open`."""

    gate: Annotated[Gate, GATE] = field(default="off", kw_only=True)

    @property
    def image_term(self) -> str:
        """What the L1 to the teacher's image is called: gated it is another quantity, and no method shares it."""
        return WHOLE if self.gate == "off" else GATED

    def modules(self, teacher: Network | None, student: Network) -> nn.ModuleDict:
        """What the soft gate remembers of the run."""
        return nn.ModuleDict({"spread": RunningSpread()} if self.gate == "soft" else {})

    def opened(self, step: Step, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """a of each patch, from both images."""
        if self.gate == "off":
            return student.new_ones(len(student))
        gap, spread = error_gap(student, teacher, step.hr), None
        if self.gate == "soft":
            running = cast(RunningSpread, cast(nn.ModuleDict, step.modules[cast(Method, self).name])["spread"])
            moments = running.with_values(step.everyone(gap))
            step.afterwards(lambda: running.become(moments))
            spread = running.deviation(moments)
        opened = gate_of(self.gate, gap, spread)
        step.observe("gate_open", opened.mean())
        return opened

    def image_loss(self, opened: torch.Tensor, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """The L1 to the teacher's image where the gate is open."""
        return F.l1_loss(student, teacher) if self.gate == "off" else (opened * sample_l1(student, teacher)).mean()
