"""Deep supervision (DS): auxiliary heads on intermediate features also output an image, only in training.

    L = L1(S, y) + w·Σ_i L1(P_i(F_i, F_head), y),   taps rel(1/3) and rel(2/3), w = 1
    P(F) = mean + conv(up( conv(B₅(…B₁(F))) + F_head ))/range,   B: EDSR's residual block of 64 channels, res_scale 1

[choice] CLSD's paper has DS rows and names the heads' blocks; taps, w and tails are ours (docs/methods/ds.md). Features
of other widths pass a 1×1 convolution first. Range and mean are the student's own, or DIV2K's mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, cast

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F

from compressor.base.randomness import next_torch_seed, torch_seed
from compressor.models.networks.base import Network
from compressor.models.networks.layers import DIV2K_MEAN, MeanShift, ResidualBlock, Upsampler
from compressor.training.calibration import Calibrated
from compressor.training.method import FeaturePair, Kind, Method
from compressor.training.step import Step
from recipes.terms.features import resolve_taps

WIDTH = 64
BLOCKS = 5
Taps = Annotated[tuple[str, ...], Field(min_length=1, description="features of the student that get a head each")]


@dataclass(frozen=True)
class DeepSupervision(Method):
    taps: Taps = ("rel(1/3)", "rel(2/3)")
    head_weight: Annotated[float, Field(ge=0, description="w, the weight of the images of all heads together")] = 1.0
    name: str = "ds"
    kind: Kind = "heads"

    @property
    def weights(self) -> Mapping[str, float | Calibrated]:
        return {"pixel": 1.0, "heads": self.head_weight}

    def fit(self, teacher: Network | None, student: Network) -> DeepSupervision:
        resolve_taps(self.name, "student", student, self.taps)
        return self

    def feature_pairs(self, teacher: Network | None, student: Network) -> list[FeaturePair]:
        return [FeaturePair("heads", tap, None) for tap in resolve_taps(self.name, "student", student, self.taps)]

    def modules(self, teacher: Network | None, student: Network) -> nn.ModuleDict:
        heads = nn.ModuleList(auxiliary_head(student, seed=next_torch_seed()) for _ in self.taps)
        return nn.ModuleDict({"heads": heads})

    def terms(self, step: Step) -> dict[str, torch.Tensor]:
        return self.supervised_losses(step, self.head_images(step))

    def head_images(self, step: Step) -> list[torch.Tensor]:
        """Return the images P_i of the heads, one per tap."""
        features = step.student(taps=("head", *self.taps)).features
        heads = cast(nn.ModuleList, step.modules[self.name]["heads"])
        with step.precision():
            images = [head(features[tap], features["head"]) for tap, head in zip(self.taps, heads, strict=True)]
        return [image.float() for image in images]

    def supervised_losses(self, step: Step, images: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the pixel losses of the student and of its heads' images."""
        heads = torch.stack([F.l1_loss(image, step.hr) for image in images]).sum()
        return {"pixel": F.l1_loss(step.student().sr, step.hr), "heads": heads}


class AuxiliaryHead(nn.Module):
    """The head P. It belongs to the method, not to the network, and is neither exported nor counted."""

    def __init__(self, channels: int, scale: int, *, img_range: float, mean: Sequence[float] = DIV2K_MEAN) -> None:
        super().__init__()
        self.feature_entry, self.shallow_entry = (
            nn.Identity() if channels == WIDTH else nn.Conv2d(channels, WIDTH, 1) for _ in range(2)
        )
        self.blocks = nn.Sequential(*(ResidualBlock(WIDTH, 1.0) for _ in range(BLOCKS)))
        self.body_end = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.upsampler = nn.Identity() if scale == 1 else Upsampler(scale, WIDTH)
        self.tail = nn.Conv2d(WIDTH, len(mean), 3, padding=1)
        self.add_mean = MeanShift(mean, img_range, leave=True, from_file=False)

    def forward(self, feature: torch.Tensor, shallow: torch.Tensor) -> torch.Tensor:
        """Return the image in [0,1] for a tap's feature and the network's `head` feature."""
        deep = self.body_end(self.blocks(self.feature_entry(feature))) + self.shallow_entry(shallow)
        sr: torch.Tensor = self.add_mean(self.tail(self.upsampler(deep)))
        return sr


def auxiliary_head(network: Network, *, seed: int) -> AuxiliaryHead:
    """Return a head that fits a network's features: its width, scale, range and mean."""
    spec, channels = network.spec, network.descriptor.channels
    mean = getattr(spec, "mean", DIV2K_MEAN if channels == 3 else (0.0,))
    img_range = float(getattr(spec, "img_range", 1.0))
    width = int(getattr(spec, "width"))  # noqa: B009 - every network with taps has one, the base class has not
    factor = spec.scale * int(getattr(spec, "unshuffle", 1))  # features of an unshuffled image are smaller
    with torch_seed(seed):
        return AuxiliaryHead(width, factor, img_range=img_range, mean=mean)
