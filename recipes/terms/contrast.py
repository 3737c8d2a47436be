"""CSD's contrastive ratio: close to the positive, far from bicubic images, in the feature space of a frozen network φ.

    R = Σ_j v_j · mean|φ_j(P) - φ_j(S)| / (mean_{b,c,h,w} Σ_k |φ_j(N_k) - φ_j(S)| + 1e-7),   v = 1/32, 1/16, 1/8, 1/4, 1

Wang et al., CSD (IJCAI 2021); code followed: Booooooooooo/CSD, loss/contrast_loss.py, trainer/slim_contrast_trainer.py.
Both means run over the whole batch before the division. The denominator is a sum over K negatives, LR images of the
batch enlarged by torch's bicubic, each compared with every student image (docs/methods/csd.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias, cast

import torch
from pydantic import Field
from torch.nn import functional as F

from compressor.base.randomness import uniforms
from compressor.training.step import Step
from recipes.terms.distances import full_precision, sample_l1, summed_l1, widen
from recipes.terms.perceptual import LEVEL_WEIGHTS, Phi
from recipes.terms.phi import UsesPerceptualNet

EPS = 1e-7
NEGATIVES = 10

Features: TypeAlias = Sequence[torch.Tensor]
"""Features of some images, one tensor per level."""


@dataclass(frozen=True)
class ContrastsThroughPhi(UsesPerceptualNet):
    """A method that contrasts images with a positive and with bicubic negatives, by CSD's ratio."""

    negatives: Annotated[
        int, Field(ge=1, description="K, bicubic images to move away from; the term is a ratio to their sum")
    ] = NEGATIVES
    compat: Annotated[
        Literal["", "csd"], Field(description="csd: as its code does, the first K images of the batch as negatives")
    ] = ""

    def contrast(self, step: Step, images: Sequence[torch.Tensor], positive: torch.Tensor) -> torch.Tensor:
        """Return the ratio over the batch of all processes, summed over images."""
        phi = cast(Phi, step.helpers[self.name]["phi"])
        lr = step.all_gather(step.lr)
        indices = negative_indices(range(len(lr)), self.negatives, seed=step.seed, step=step.number, compat=self.compat)
        negatives = bicubic_negatives(torch.stack([lr[index] for index in indices]), step.scale)
        # φ computes in the student's precision, the distances in fp32 (`recipes/terms/distances.py`).
        with step.precision():
            references = features_of(phi, positive, negatives)
            anchors = [phi(image) for image in images]
        # Only the distances of each sample are sent between processes, not the features.
        distances = [step.all_gather(sample_distances(anchor, *references)) for anchor in anchors]
        return torch.stack([ratio_of(of_anchor) for of_anchor in distances]).sum()


def features_of(phi: Phi, positive: torch.Tensor, negatives: torch.Tensor) -> tuple[Features, Features]:
    """Return φ of the positives and of the negatives: one pass without gradients, unless the positives need one."""
    if positive.requires_grad:
        with torch.no_grad():
            away = phi(negatives)
        return phi(positive), away
    with torch.no_grad():
        both = phi(torch.cat([positive, negatives]))
    return [level[: len(positive)] for level in both], [level[len(positive) :] for level in both]


def sample_distances(
    anchors: Sequence[torch.Tensor],
    positives: Sequence[torch.Tensor],
    negatives: Sequence[torch.Tensor],
    *,
    own: bool = False,
) -> torch.Tensor:
    """Return mean |φ(P) - φ(S)| and Σ_k mean |φ(N_k) - φ(S)| of each sample at each level, (B, levels, 2).

    The gradient reaches S, P unless the caller detached it, and never N. All samples share the negatives or, with
    `own`, each has K of its own: K batches in the samples' order, concatenated.
    """
    levels = [
        torch.stack([sample_l1(anchor, positive), summed_l1(anchor, negative, own=own)], 1)
        for anchor, positive, negative in zip(anchors, positives, negatives, strict=True)
    ]
    return torch.stack(levels, 1)


def ratio_of(distances: torch.Tensor) -> torch.Tensor:
    """Return R from the distances of every sample of the batch: means first, then the ratio.

    A φ of fewer levels has the last of the weights.
    """
    near, far = distances.mean(0).unbind(1)
    weights = LEVEL_WEIGHTS[-len(near) :]
    return torch.stack([weight * ratio for weight, ratio in zip(weights, near / (far + EPS), strict=True)]).sum()


def negative_indices(
    samples: Sequence[int], count: int, *, seed: int, step: int, compat: Literal["", "csd"] = ""
) -> list[int]:
    """Return the indices of the negatives in the batch; `samples` are the batch's global sample indices."""
    if compat == "csd":
        return list(range(min(count, len(samples))))
    order = uniforms("csd-negatives", seed, step, samples, 1)[:, 0].argsort(kind="stable")
    return sorted(order[:count].tolist())


def bicubic_negatives(lr: torch.Tensor, scale: int) -> torch.Tensor:
    """Return LR images, bicubic by torch (a = -0.75): no antialiasing, corners unaligned, unclamped, no gradient."""
    with full_precision(lr):
        return F.interpolate(widen(lr.detach()), scale_factor=float(scale), mode="bicubic", align_corners=False)
