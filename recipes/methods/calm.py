"""Temporal calm: the student gives the same image for the same content under other noise, or a pixel further on.

    L = w·mean|S(x') - sg S(x)|        x' = round(x moved by a pixel or not, down and right, + σ·n),  σ ~ U(0, noise)

n is normal noise, σ drawn for each patch. [choice], after stability training (Zheng et al., CVPR 2016;
docs/methods/calm.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch.nn import functional as F

from compressor.base.randomness import crop_each, generator_of, uniforms
from compressor.images.metrics import as_in_a_file
from compressor.training.method import Method
from compressor.training.step import Step

BORDER = 4
"""LR pixels at each side of a patch that are not compared, a quarter of a smaller patch: there a move brings in pixels
that the other input does not have."""


@dataclass(frozen=True)
class Calm(Method):
    weight: Annotated[float, Field(ge=0, description="w, weight of the difference; 0: no second pass")] = 1.0
    noise: Annotated[float, Field(ge=0, description="largest deviation of the noise, in grey levels of 255")] = 4.0
    moves: Annotated[bool, Field(description="whether half of the patches move by a pixel, in each direction")] = True
    name: str = "calm"
    stays: ClassVar[bool] = True

    @property
    def weights(self) -> Mapping[str, float]:
        return {"calm": self.weight} if self.weight else {}

    def terms(self, step: Step) -> dict[str, torch.Tensor]:
        if not self.weight:
            return {}
        lr, scale = step.lr, step.scale
        numbers = uniforms("calm", step.seed, step.number, step.samples, 3)
        share = 0.5 if self.moves else 0.0
        steps = [(int(down < share), int(right < share)) for down, right in numbers[:, 1:]]
        deviations = (numbers[:, 0] * self.noise / 255).tolist()
        noise = normal_noise(lr, deviations, seed=step.seed, step=step.number, samples=step.samples)
        other = disturbed(lr, steps, noise)
        step.run_together(student=[lr, other])
        target, sr = step.student().sr.detach(), step.student(other).sr
        border = scale * min(BORDER, min(lr.shape[-2:]) // 4)
        height, width = (side - 2 * border - scale for side in sr.shape[-2:])
        corners = [(border + scale * down, border + scale * right) for down, right in steps]
        target = crop_each(target, corners, height, width)
        return {"calm": F.l1_loss(sr[..., border : border + height, border : border + width], target)}


def disturbed(lr: torch.Tensor, steps: Sequence[tuple[int, int]], noise: torch.Tensor) -> torch.Tensor:
    """Return x': images that are moved and have noise, as a film stores them, in 8 bit."""
    return as_in_a_file(moved(lr, steps) + noise)


def moved(images: torch.Tensor, steps: Sequence[tuple[int, int]]) -> torch.Tensor:
    """Return images that show what lies 0 or 1 pixels further down and right; the edge is repeated."""
    height, width = images.shape[-2:]
    return crop_each(F.pad(images, (0, 1, 0, 1), mode="replicate"), steps, height, width)


def normal_noise(
    like: torch.Tensor, deviations: Sequence[float], *, seed: int, step: int, samples: Sequence[int]
) -> torch.Tensor:
    """Return normal noise of its deviation for each sample."""
    generators = (generator_of("calm-noise", seed, step, sample) for sample in samples)
    drawn = [torch.from_numpy(generator.standard_normal(like.shape[1:], "float32")) for generator in generators]
    fields = [field * deviation for field, deviation in zip(drawn, deviations, strict=True)]
    return torch.stack(fields).to(like.device)
