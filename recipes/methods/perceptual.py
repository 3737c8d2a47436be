"""A perceptual student of a perceptual teacher: first near to its images, then not to be told apart from them.

    main stage    L = L1(s,t) + g·L1(∇s,∇t) + w·Σ L1 of Haar's high bands of s and t, two levels
    faithful, F   L = L1(s,t) + g·L1(∇s,∇t)
    textured, T   L = that + p·spectrum(s,t) + q·contrast(s,t) + f·flat(s,t)
                      + λ_φ·L_φ(s,t)
    L_φ = Σ_l mean|φ_l(s↓) - φ_l(t↓)| / mean|φ_l(t↓)|, φ = the teacher's blocks; or Real-ESRGAN's sum over VGG-19
    t = the teacher's image of the same input, clipped and rounded to 8 bit;   student = (1 - a)·F + a·T

Both last stages begin from the main one's student. Texture: recipes/terms/texture.py; a: strength.py.
[choice], docs/methods/perceptual.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, cast

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F

from compressor.base.randomness import crop_each, random_positions
from compressor.images.metrics import as_in_a_file
from compressor.images.resize import imresize
from compressor.models.networks.base import Network
from compressor.models.students.blend import Blended
from compressor.training.calibration import Calibrated
from compressor.training.method import Kind, LaterStage, Method
from compressor.training.step import Step
from recipes.composition import ROUNDED_IMAGE_TERM
from recipes.terms.haar import high_bands, low_band
from recipes.terms.perceptual import Phi
from recipes.terms.phi import PhiChoice, UsesPerceptualNet
from recipes.terms.strength import Patches, blended
from recipes.terms.texture import (
    block_agreement,
    block_deviations,
    contrast_distance,
    restlessness,
    spectrum_distance,
)

PHI_SHARE = 0.3
VGG_WEIGHT = 1.0
VGG_LEVEL_WEIGHTS = (0.1, 0.1, 1.0, 1.0, 1.0)
WAVELET_LEVELS = 2


@dataclass(frozen=True)
class Perceptual(UsesPerceptualNet):
    gradients: Annotated[float, Field(ge=0, description="g, weight of the images' gradients")] = 0.5
    wavelets: Annotated[float, Field(ge=0, description="w, weight of their high bands in the main stage")] = 0.5
    spectrum: Annotated[float, Field(ge=0, description="p, weight of the spectrum in the last stage")] = 1.0
    contrast: Annotated[float, Field(ge=0, description="q, weight of the contrast of small blocks there")] = 4.0
    flat: Annotated[float, Field(ge=0, description="f, weight of restless flat areas there")] = 1.0
    last_share: Annotated[
        float, Field(ge=0, lt=0.5, description="part of the run's steps for each of the two last stages")
    ] = 0.15
    last_rate: Annotated[float, Field(gt=0, description="learning rate there")] = 4e-4
    lam_phi: Annotated[
        float | None,
        Field(ge=0, description="λ_φ; none: calibrated to 0.3 of the L1, with VGG-19 1"),
    ] = None
    window: Annotated[
        int,
        Field(ge=16, description="largest side in pixels of the window that φ sees of a patch"),
    ] = 64
    phi: Annotated[
        PhiChoice, Field(description="the teacher's first blocks or VGG-19; auto: VGG-19 where it is available")
    ] = "teacher"
    name: str = "perceptual"
    kind: Kind = "looks"
    takes_outputs: bool = True
    phi_for_looks: ClassVar[bool] = True

    @property
    def weights(self) -> Mapping[str, float | Calibrated]:
        return {ROUNDED_IMAGE_TERM: 1.0, "gradients": self.gradients, "wavelets": self.wavelets}

    def helpers(self, teacher: Network | None, student: Network) -> nn.ModuleDict:
        """Return no φ: only the last stage uses it."""
        return nn.ModuleDict()

    def later_stages(self) -> Sequence[LaterStage]:
        return (
            LaterStage("faithful", self.last_share, self.last_rate, Faithful(self), kept=True),
            LaterStage("textured", self.last_share, self.last_rate, Textured(self), from_main=True),
        )

    def finish(self, kept: Mapping[str, Network], last: Network, patches: Patches, *, is_clean: bool) -> Blended | None:
        return blended(kept["faithful"], last, patches, is_clean=is_clean) if "faithful" in kept else None

    def terms(self, step: Step) -> dict[str, torch.Tensor]:
        difference = step.student().sr - target_of(step)
        return {**pixel_terms(difference), "wavelets": wavelet_l1(difference)}


@dataclass(frozen=True)
class Faithful(Method):
    """The stage that ends in F: pixels and gradients alone."""

    of: Perceptual
    name: str = "perceptual-faithful"
    kind: Kind = "looks"
    takes_outputs: bool = True

    @property
    def weights(self) -> Mapping[str, float]:
        return {ROUNDED_IMAGE_TERM: 1.0, "gradients": self.of.gradients}

    def terms(self, step: Step) -> dict[str, torch.Tensor]:
        return pixel_terms(step.student().sr - target_of(step))


@dataclass(frozen=True)
class Textured(Method):
    """The stage that ends in T: the texture of the teacher's images."""

    of: Perceptual
    name: str = "perceptual-textured"
    kind: Kind = "looks"
    takes_outputs: bool = True

    @property
    def weights(self) -> Mapping[str, float | Calibrated]:
        of = self.of
        weights: dict[str, float | Calibrated] = {ROUNDED_IMAGE_TERM: 1.0, "gradients": of.gradients}
        weights |= {"spectrum": of.spectrum, "contrast": of.contrast, "flat": of.flat}
        if of.lam_phi is not None:
            weights["phi"] = of.lam_phi
        else:
            weights["phi"] = Calibrated(PHI_SHARE, ROUNDED_IMAGE_TERM) if of.uses_teacher_blocks else VGG_WEIGHT
        return weights

    def helpers(self, teacher: Network | None, student: Network) -> nn.ModuleDict:
        if self.of.lam_phi == 0:
            return nn.ModuleDict()
        return UsesPerceptualNet.helpers(self.of, teacher, student)

    def terms(self, step: Step) -> dict[str, torch.Tensor]:
        sr, target = step.student().sr, target_of(step)
        student, teacher = block_deviations(sr), block_deviations(target)
        terms = pixel_terms(sr - target) | {
            "spectrum": spectrum_distance(sr, target, step.all_gather),
            "contrast": contrast_distance(student, teacher, block_agreement(sr, target)),
            "flat": restlessness(student, teacher),
        }
        if self.of.lam_phi != 0:
            terms["phi"] = self._phi_distance(step, *self._windows(step, sr, target))
        return terms

    def _windows(self, step: Step, sr: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the same window of each image and its target."""
        height, width = (min(self.of.window, side) // step.scale * step.scale for side in sr.shape[-2:])
        room = (sr.shape[-2] - height, sr.shape[-1] - width)
        corners = random_positions("perceptual-windows", step.seed, step.number, step.samples, room)[0]
        return crop_each(sr, corners, height, width), crop_each(target, corners, height, width)

    def _phi_distance(self, step: Step, sr: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return L_φ."""
        phi = cast(Phi, step.helpers[self.name]["phi"])
        is_teacher = self.of.uses_teacher_blocks
        if is_teacher:
            sr, target = (imresize(images, 1 / step.scale) for images in (sr, target))
        with step.precision():
            with torch.no_grad():
                teacher = phi(target)
            student = phi(sr)
        distances = torch.stack([F.l1_loss(a.float(), b.float()) for a, b in zip(student, teacher, strict=True)])
        if not is_teacher:
            return (distances * distances.new_tensor(VGG_LEVEL_WEIGHTS)).sum()
        sizes = torch.stack([feature.float().abs().mean((1, 2, 3)) for feature in teacher], 1)
        sizes = step.all_gather(sizes).mean(0)  # of the whole batch: a mean of ratios would depend on the processes
        return (distances / sizes).sum()


def target_of(step: Step) -> torch.Tensor:
    """Return t: the teacher's image as it would be written to a file."""
    return as_in_a_file(step.teacher().sr)


def pixel_terms(difference: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the L1 of the images and that of their forward differences, the mean of both directions."""
    gradients = [difference.diff(dim=axis).abs().mean() for axis in (-2, -1)]
    return {ROUNDED_IMAGE_TERM: difference.abs().mean(), "gradients": torch.stack(gradients).mean()}


def wavelet_l1(difference: torch.Tensor) -> torch.Tensor:
    """Return the sum over levels and high bands of the mean absolute value: the transform is linear."""
    low, levels = difference, list[torch.Tensor]()
    for _ in range(WAVELET_LEVELS):
        levels += [band.abs().mean() for band in high_bands(low)]
        low = low_band(low)
    return torch.stack(levels).sum()
