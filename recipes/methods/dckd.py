"""DCKD: close to the teacher's image, far from what the student itself made of noisy inputs a while ago.

    L = c·L1(S(x), y) + κ·L1(S(x), sg T(x)) + w·L1(S(x), sg D⁻¹ T(D x)) + λ·Σ_j v_j·D_j
    D_j = mean|φ_j(T(x)) - φ_j(S(x))| / (mean_{b,c,h,w} Σ_k |φ_j(H(x_k)) - φ_j(S(x))| + 1e-7),   k = 0 … K
    x_0 = x,   x_k = clip(x + noise of σ from U(1, 30)/255, in grey with probability 0.5)
    H ← 0.1·H + 0.9·Ŝ every q steps,   Ŝ the averaged student;   q = 1000, then 2000 and 3000, each for 100,000 steps

Dynamic Contrastive Knowledge Distillation for Efficient Image Restoration (AAAI 2025, arXiv 2412.08939); code followed:
super-SSS/DCKD, basicsr/models/dckd_model.py. Where we differ: docs/methods/dckd.md.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, cast

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F

from compressor.base.errors import UsageError
from compressor.base.randomness import generator_of
from compressor.degradation.filters import add_gaussian
from compressor.models.networks.base import Network
from compressor.training.method import Kind
from compressor.training.step import Step
from recipes.terms.contrast import bicubic_negatives, features_of, ratio_of, sample_distances
from recipes.terms.perceptual import LEVEL_WEIGHTS, Phi
from recipes.terms.phi import UsesPerceptualNet
from recipes.terms.symmetries import apply, draw_operations, invert

DCKD_WEIGHT = 0.1
"""λ of the code, with `NEGATIVES` and all of φ's five levels."""
NEGATIVES = 5
STEPS_OF_AN_INTERVAL = 100_000
"""Steps after which the next interval between two updates of H holds."""

Deviation = Annotated[float, Field(ge=0, le=255)]
Interval = Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class DCKD(UsesPerceptualNet):
    lam: Annotated[
        float | None,
        Field(ge=0, description="weight of the contrast; none: 0.1 for 5 negatives and 5 levels of φ, else by both"),
    ] = None
    pixel_weight: Annotated[float, Field(ge=0, description="c, weight of the pixel loss")] = 1.0
    kappa: Annotated[float, Field(ge=0, description="weight of the teacher's image")] = 1.0
    consistency: Annotated[
        float, Field(ge=0, description="weight of the teacher's image of changed patches; 0: not computed")
    ] = 1.0
    probability: Annotated[float, Field(ge=0, le=1, description="probability of each operation on those patches")] = 0.5
    noisy: Annotated[int, Field(ge=1, description="K, noisy inputs of a negative each, beside the input itself")] = 4
    sigma: Annotated[
        tuple[Deviation, Deviation], Field(description="deviation of their noise in grey levels of 255, from and to")
    ] = (1.0, 30.0)
    grey: Annotated[float, Field(ge=0, le=1, description="probability of noise equal in all channels")] = 0.5
    history: Annotated[bool, Field(description="negatives by an earlier student; false: by bicubic upscaling")] = True
    decay: Annotated[float, Field(ge=0, le=1, description="share of the earlier student that an update keeps")] = 0.1
    intervals: Annotated[
        tuple[Interval, ...],
        Field(min_length=1, description="steps between two updates of it, each for 100,000 steps, then the last"),
    ] = (1000, 2000, 3000)
    every: Annotated[int, Field(ge=1, le=4, description="r: the contrast at each r-th step, at r times its weight")] = 1
    name: str = "dckd"
    kind: Kind = "contrast"
    takes_outputs: bool = True

    def __post_init__(self) -> None:
        low, high = self.sigma
        if low > high:
            raise UsageError(f"dckd: sigma=[{low:g}, {high:g}] ends before it begins: give the smaller one first")

    def fit(self, teacher: Network | None, student: Network) -> DCKD:
        """Return the method with λ for the number of negatives and of φ's levels."""
        if self.lam is not None:
            return self
        used = LEVEL_WEIGHTS[-self.phi_levels(teacher) :]
        lam = DCKD_WEIGHT * (self.noisy + 1) / NEGATIVES * sum(LEVEL_WEIGHTS) / sum(used)
        return replace(self, lam=lam)

    @property
    def contrasts(self) -> bool:
        return self.lam is None or self.lam > 0

    @property
    def weights(self) -> Mapping[str, float]:
        weights = {"pixel": self.pixel_weight, "logits": self.kappa}
        if self.consistency:
            weights["consistency"] = self.consistency
        if self.contrasts:
            weights["contrast"] = self.every * (DCKD_WEIGHT if self.lam is None else self.lam)
        return weights

    def modules(self, teacher: Network | None, student: Network) -> nn.ModuleDict:
        """Return H, which starts as the student; it is not trained, but follows."""
        if not (self.contrasts and self.history):
            return nn.ModuleDict()
        return nn.ModuleDict({"history": copy.deepcopy(student).requires_grad_(False).eval()})

    def follow_average(self, modules: nn.ModuleDict, averaged: Network, done: int) -> None:
        """Move H to the averaged student after `done` steps, if an interval ends there."""
        index = min((done - 1) // STEPS_OF_AN_INTERVAL, len(self.intervals) - 1)
        if "history" in modules and done % self.intervals[index] == 0:
            follow(modules["history"], averaged, self.decay)

    def terms(self, step: Step) -> dict[str, torch.Tensor]:
        sr, terms = step.student().sr, dict[str, torch.Tensor]()
        if self.consistency:
            operations = draw_operations(
                self.probability, stream="dckd-labels", seed=step.seed, step=step.number, samples=step.samples, like=sr
            )
            changed = apply(step.lr, operations)
            step.run_together(teacher=[step.lr, changed])
            label = invert(step.teacher(changed).sr.detach(), operations)
            terms["consistency"] = F.l1_loss(sr, label)
        teacher = step.teacher().sr.detach()
        terms |= {"pixel": F.l1_loss(sr, step.hr), "logits": F.l1_loss(sr, teacher)}
        if self.contrasts and (step.number + 1) % self.every == 0:  # so that logged rows, of even steps, have it
            terms["contrast"] = self._contrast(step, sr, teacher)
        return terms

    def _contrast(self, step: Step, sr: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        phi = cast(Phi, step.helpers[self.name]["phi"])
        negatives = self._negatives(step)
        # φ computes in the student's precision, the distances in fp32 (`recipes/terms/distances.py`).
        with step.precision():
            near, far = features_of(phi, teacher, negatives)
            anchors = phi(sr)
        distances = step.all_gather(sample_distances(anchors, near, far, own=True))
        for name, distance in zip(("contrast_near", "contrast_far"), distances[:, -1].mean(0), strict=True):
            step.observe(name, distance)
        return ratio_of(distances)

    @torch.no_grad()
    def _negatives(self, step: Step) -> torch.Tensor:
        """Return the images of the input and of its K noisy copies, by H or by bicubic upscaling: K + 1 batches."""
        inputs = noisy_inputs(
            step.lr, self.noisy, self.sigma, self.grey, seed=step.seed, step=step.number, samples=step.samples
        )
        inputs = torch.cat([step.lr, inputs])
        if not self.history:
            return bicubic_negatives(inputs, step.scale)
        history = step.modules[self.name]["history"]
        with step.precision():
            images: torch.Tensor = history(inputs)
        return images.float()


def noisy_inputs(
    lr: torch.Tensor,
    count: int,
    sigma_255: tuple[float, float],
    grey: float,
    *,
    seed: int,
    step: int,
    samples: Sequence[int],
) -> torch.Tensor:
    """Return `count` noisy copies of each image in [0,1], clipped: (count·B,…), copy by copy.

    Noise is drawn for each sample and each copy: σ, whether it is grey, then the field.
    """
    # Fields are drawn on the CPU and sent to the device together.
    black, fields = torch.zeros(lr.shape[1:], device="cpu"), []
    for copy_number in range(count):
        for sample in samples:
            generator = generator_of(f"dckd-noise-{copy_number}", seed, step, sample)
            sigma, is_grey = generator.uniform(*sigma_255), bool(generator.random() < grey)
            fields.append(add_gaussian(black, sigma, grey=is_grey, generator=generator))
    return (lr.repeat(count, 1, 1, 1) + torch.stack(fields).to(lr.device)).clamp(0, 1)


@torch.no_grad()
def follow(history: nn.Module, averaged: nn.Module, decay: float) -> None:
    """Set H ← decay·H + (1 - decay)·Ŝ; only parameters move."""
    moved: list[torch.Tensor] = list(history.parameters())
    target: list[torch.Tensor] = list(averaged.parameters())
    torch._foreach_lerp_(moved, target, 1.0 - decay)  # pyright: ignore[reportPrivateImportUsage]
