"""Deep supervision (DS): auxiliary heads on intermediate features each make an image too, in training only.

    L = L1(S, y) + w·Σ_i L1(P_i(F_i, F_head), y),   taps rel(1/3) and rel(2/3), w = 1

CLSD's paper has DS rows (×2/×3/×4, EDSR 16/64) and says that auxiliary models of 5 residual blocks with 64 channels sit
on intermediate features; positions, weights and the heads' tails are lost. [choice] Taps, w and tail (terms/heads.py).
DS is read as CLSD's method without its contrast. No teacher. The heads are trained with the student and then forgotten:
neither exported, nor averaged, nor counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, cast

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F

from compressor.base.randomness import next_torch_seed
from compressor.models.networks.base import Network
from compressor.training.footprint import peak_of
from compressor.training.method import Calibrated, PlainMethod
from compressor.training.step import Step
from recipes.composition import Kind
from recipes.tap_check import Compared, Shape, own_taps
from recipes.terms.heads import auxiliary_head

Taps = Annotated[tuple[str, ...], Field(min_length=1, description="features of the student that get a head each")]


@dataclass(frozen=True)
class DeepSupervision(PlainMethod):
    taps: Taps = ("rel(1/3)", "rel(2/3)")
    head_weight: Annotated[float, Field(ge=0, description="w, of the images of all heads together")] = 1.0
    name: str = "ds"
    kind: Kind = "heads"

    @property
    def weights(self) -> Mapping[str, float | Calibrated]:
        return {"pixel": 1.0, "heads": self.head_weight}

    def fit(self, teacher: Network | None, student: Network) -> DeepSupervision:
        own_taps(self.name, "student", student, self.taps)
        return self

    def compares(self, teacher: Network | None, student: Network) -> list[Compared]:
        return heads_on(self.name, student, self.taps)

    def modules(self, teacher: Network | None, student: Network) -> nn.ModuleDict:
        return heads_for(student, self.taps)

    def terms(self, step: Step) -> dict[str, torch.Tensor]:
        return supervised(step, head_images(step, self.name, self.taps))


def heads_on(method: str, student: Network, taps: Sequence[str]) -> list[Compared]:
    """What is told of each head: the feature that it makes an image of, and what that takes with its weights."""

    def bytes_of(shape: Shape, teacher: Shape, processes: int) -> int:
        return peak_of(lambda *features: auxiliary_head(student, seed=0)(*features).mean(), shape, shape)

    return [Compared("heads", tap, None, bytes_of) for tap in own_taps(method, "student", student, taps)]


def heads_for(student: Network, taps: Sequence[str]) -> nn.ModuleDict:
    return nn.ModuleDict({"heads": nn.ModuleList(auxiliary_head(student, seed=next_torch_seed()) for _ in taps)})


def head_images(step: Step, method: str, taps: Sequence[str]) -> list[torch.Tensor]:
    """P_i of the heads that a method has, one a tap."""
    features = step.student(taps=("head", *taps)).features
    heads = cast(nn.ModuleList, cast(nn.ModuleDict, step.modules[method])["heads"])
    with step.precision():
        made = [head(features[tap], features["head"]) for tap, head in zip(taps, heads, strict=True)]
    return [image.float() for image in made]


def supervised(step: Step, images: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
    """The pixel losses of the student and of its heads."""
    heads = torch.stack([F.l1_loss(image, step.hr) for image in images]).sum()
    return {"pixel": F.l1_loss(step.student().sr, step.hr), "heads": heads}
