"""A perceptual student of a perceptual teacher: first near to its images, then not to be told apart from them.

    main stage    L = L1(s,t) + g·L1(∇s,∇t) + w·Σ L1 of Haar's high bands of s and t, two levels
    faithful, F   L = L1(s,t) + g·L1(∇s,∇t)
    textured, T   L = that + p·spectrum(s,t) + q·contrast(s,t) + f·flat(s,t) + r·lattice(s,t)
                      + λ_D·BCE(D(s), 1);        D learns BCE(D(t), 1) + BCE(D(s), 0)
    t = the teacher's image of the same input, clipped and rounded to 8 bit;   student = (1 - a)·F + a·T

Both last stages begin from the main one's student. Texture: recipes/terms/texture.py; D: discriminator.py; a:
strength.py. D is there in stages of 600 steps or more: it first learns alone, then λ_D rises.
[choice], after Real-ESRGAN (realesrgan/models/realesrgan_model.py) and SDAKD (arXiv 2510.03870;
docs/methods/perceptual.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, cast

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F

from compressor.base.randomness import crop_each, generator_of, random_positions
from compressor.images.metrics import as_in_a_file
from compressor.models.networks.base import Network
from compressor.models.students.blend import Blended, Patches
from compressor.training.method import Kind, LaterStage, Method, OwnRate
from compressor.training.step import Step
from recipes.composition import ROUNDED_IMAGE_TERM
from recipes.terms import texture
from recipes.terms.discriminator import UNetDiscriminator, opponent_loss, student_loss
from recipes.terms.haar import high_bands, low_band
from recipes.terms.strength import blended

LEAST_PLAYED = 600
"""Steps of the last stage from which on there is a discriminator: in 294 steps it makes halos 5 % stronger at the same
sharpness, in 980 10 % weaker than a stage of the same time without it (docs/methods/perceptual.md)."""
MOST_ALONE, MOST_RAMP = 500, 1000
WIDTHS = {200_000: 16, 1_000_000: 32}
"""Channels of the discriminator for students of at most so many parameters; 64 for larger ones."""
WAVELET_LEVELS = 2
WINDOW = 64
"""The largest side in pixels of the windows that the discriminator sees, one a patch."""
DETAIL_SIDE, DETAIL_GAIN = 8, 8.0
"""The discriminator sees what is finer than 8 pixels, 8 times as strong. Of whole images it learns nothing in the few
hundred steps of a short run (accuracy 0.52 after 100 steps, of details 0.83), and their coarse part has its own loss.
"""


@dataclass(frozen=True)
class Perceptual(Method):
    gradients: Annotated[float, Field(ge=0, description="g, weight of the images' gradients")] = 0.5
    wavelets: Annotated[float, Field(ge=0, description="w, weight of their high bands in the main stage")] = 0.5
    spectrum: Annotated[float, Field(ge=0, description="p, weight of the spectrum in the last stage")] = 1.0
    contrast: Annotated[float, Field(ge=0, description="q, weight of the contrast of small blocks there")] = 4.0
    flat: Annotated[float, Field(ge=0, description="f, weight of restless flat areas there")] = 1.0
    lattice: Annotated[float, Field(ge=0, description="r, weight of dots that repeat by LR pixel there")] = 1.0
    last_share: Annotated[
        float, Field(ge=0, lt=0.5, description="part of the run's steps for each of the two last stages")
    ] = 0.15
    last_rate: Annotated[float, Field(gt=0, description="learning rate there")] = 4e-4
    opponent_rate: Annotated[float, Field(gt=0, description="learning rate of the discriminator")] = 2e-3
    lam_adversarial: Annotated[float, Field(ge=0, description="λ_D, weight of the discriminator's verdict")] = 0.01
    width: Annotated[
        int | None, Field(ge=4, description="channels of the discriminator; none: 16, 32 or 64 by the student's size")
    ] = None
    name: str = "perceptual"
    kind: Kind = "looks"
    takes_outputs: bool = True

    @property
    def weights(self) -> Mapping[str, float]:
        return {ROUNDED_IMAGE_TERM: 1.0, "gradients": self.gradients, "wavelets": self.wavelets}

    def later_stages(self) -> Sequence[LaterStage]:
        return (
            LaterStage("faithful", self.last_share, self.last_rate, lambda *_: Faithful(self), kept=True),
            LaterStage("textured", self.last_share, self.last_rate, partial(Textured, self), from_main=True),
        )

    def finish(self, kept: Mapping[str, Network], last: Network, patches: Patches, clean: Patches) -> Blended | None:
        return blended(kept["faithful"], last, patches, clean) if "faithful" in kept else None

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
    """The stage that ends in T, of `steps` after `began`: texture, and student against discriminator."""

    of: Perceptual
    began: int
    steps: int
    name: str = "perceptual-textured"
    kind: Kind = "looks"
    takes_outputs: bool = True
    opponent_terms: tuple[str, ...] = ("discriminator",)

    @property
    def plays(self) -> bool:
        """Whether there is a discriminator: in a short stage it learns too little to be of use."""
        return self.of.lam_adversarial > 0 and self.steps >= LEAST_PLAYED

    @property
    def weights(self) -> Mapping[str, float]:
        of = self.of
        weights = {ROUNDED_IMAGE_TERM: 1.0, "gradients": of.gradients}
        weights |= {"spectrum": of.spectrum, "contrast": of.contrast, "flat": of.flat, "lattice": of.lattice}
        return weights | ({"adversarial": of.lam_adversarial, "discriminator": 1.0} if self.plays else {})

    @property
    def alone(self) -> int:
        """The steps in which the discriminator learns alone."""
        return min(MOST_ALONE, self.steps // 20)

    @property
    def ramp(self) -> int:
        """The steps in which λ_D rises after that."""
        return max(1, min(MOST_RAMP, self.steps // 10))

    def modules(self, teacher: Network | None, student: Network) -> nn.ModuleDict:
        if not self.plays:
            return nn.ModuleDict()
        parameters = sum(parameter.numel() for parameter in student.parameters())
        width = self.of.width or next((width for most, width in WIDTHS.items() if parameters <= most), 64)
        opponent = UNetDiscriminator(width, student.descriptor.channels)
        return nn.ModuleDict({"opponent": opponent})

    def own_rates(self, student: Network, modules: nn.ModuleDict) -> Sequence[OwnRate]:
        return (OwnRate(list(modules["opponent"].parameters()), self.of.opponent_rate),) if self.plays else ()

    def terms(self, step: Step) -> dict[str, torch.Tensor]:
        sr, target = step.student().sr, target_of(step)
        student, teacher = texture.block_deviations(sr), texture.block_deviations(target)
        terms = pixel_terms(sr - target) | {
            "spectrum": texture.spectrum_distance(sr, target, step.all_gather),
            "contrast": texture.contrast_distance(student, teacher, texture.block_agreement(sr, target)),
            "flat": texture.restlessness(student, teacher),
            "lattice": texture.lattice_excess(sr, target, step.scale),
        }
        if self.plays:
            # A step before the stage is one of a dry run, which counts a full one.
            done = step.number - self.began
            share = 1.0 if done < 0 else min(1.0, max(0.0, (done - self.alone) / self.ramp))
            opponent = cast(UNetDiscriminator, step.modules[self.name]["opponent"])
            terms |= self._play(step, opponent, *self._windows(step, sr, target), share)
        return terms

    def _windows(self, step: Step, sr: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the same window of each image and its target."""
        height, width = (min(WINDOW, side) // step.scale * step.scale for side in sr.shape[-2:])
        room = (sr.shape[-2] - height, sr.shape[-1] - width)
        corners = random_positions("perceptual-windows", step.seed, step.number, step.samples, room)[0]
        return crop_each(sr, corners, height, width), crop_each(target, corners, height, width)

    def _play(
        self, step: Step, opponent: UNetDiscriminator, sr: torch.Tensor, target: torch.Tensor, share: float
    ) -> dict[str, torch.Tensor]:
        """Return the discriminator's loss and, times a share above 0, the student's."""
        noise = dither(sr, seed=step.seed, step=step.number, samples=step.samples)
        fake, real = (fine_detail(images) for images in (sr.clamp(0, 1) + noise[0], target + noise[1]))
        with step.precision():
            judged = opponent(torch.cat([real, fake.detach()]), learns=True)
        of_real, of_fake = judged.chunk(2)
        terms = {"discriminator": opponent_loss(of_real, of_fake)}
        step.observe("adversarial_weight", sr.new_tensor(share * self.of.lam_adversarial))
        if share:
            with step.precision():
                verdict = opponent(fake)
            terms["adversarial"] = share * student_loss(verdict)
        return terms


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


def fine_detail(images: torch.Tensor) -> torch.Tensor:
    """Return the images without what is coarser than `DETAIL_SIDE` pixels, times `DETAIL_GAIN`."""
    side = min(DETAIL_SIDE, *images.shape[-2:])
    coarse = F.avg_pool2d(images, side, ceil_mode=True)
    return DETAIL_GAIN * (images - F.interpolate(coarse, size=images.shape[-2:], mode="bilinear"))


def dither(like: torch.Tensor, *, seed: int, step: int, samples: Sequence[int]) -> torch.Tensor:
    """Return two fields of uniform noise of ±1/2 of 1/255 for each sample: (2,B,…)."""
    fields = [
        torch.from_numpy(generator_of("perceptual-dither", seed, step, sample).random((2, *like.shape[1:]), "float32"))
        for sample in samples
    ]
    return ((torch.stack(fields, 1) - 0.5) / 255).to(like.device)
