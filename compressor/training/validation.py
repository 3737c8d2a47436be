"""Validation: scores of networks on whole images, to the originals and to the teacher's images.

The protocol and the figures are those of `srkd evaluate`. The teacher enlarges each image once, before the first step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from compressor.base.choices import Goal
from compressor.base.context import QUIET, Context
from compressor.data.prepare import ValidationImage, ValidationSet
from compressor.images.metrics import SSIM_WINDOW, luma_of, psnr, ssim, to_u8
from compressor.images.protocol import Protocol
from compressor.images.resize import centre_crop, upscale_bicubic
from compressor.images.scores import EQUAL_DB, Scores, without_network
from compressor.inference.tiling import run_tiled
from compressor.models.networks.base import ImageModel
from compressor.models.networks.cost import pixel_bytes
from compressor.runtimes.torch_runtime import arithmetic

SetScores = Mapping[str, Scores]
"""The scores of a network by the names of the validation sets."""


@dataclass(frozen=True)
class Reference:
    """Scores to compare the student's with, on the first set: those without a network, `name`, and the teacher's."""

    name: str
    bicubic: Scores
    teacher: Scores | None = None


class Validation:
    """The validation sets of a run. The first one decides, by the goal, which student is best."""

    def __init__(
        self,
        sets: Sequence[ValidationSet],
        scale: int,
        goal: Goal = "original",
        teacher: ImageModel | None = None,
        context: Context = QUIET,
    ) -> None:
        self.sets, self.scale, self.teacher, self.context = tuple(sets), scale, teacher, context
        self.goal: Goal = goal

    @property
    def name(self) -> str:
        return self.sets[0].name

    @property
    def protocol(self) -> str:
        return str(Protocol(border=self.scale, degradation=self.sets[0].degradation))

    @cached_property
    def reference(self) -> Reference:
        teacher = None if self.teacher is None else self.teacher_by_set[self.name]
        return Reference(without_network(self.scale), self.bicubic_by_set[self.name], teacher)

    @cached_property
    def bicubic_by_set(self) -> SetScores:
        return self.score_sets(None)

    @cached_property
    def teacher_by_set(self) -> SetScores:
        enlarged = self._teacher_images.items()
        return self._means({index: self._of_image(index, sr.double(), to_teacher=False) for index, sr in enlarged})

    def score(self, model: ImageModel | None) -> Scores:
        """The mean scores of a network, or of bicubic, on the first set."""
        return self.score_sets(model, self.sets[:1])[self.name]

    def score_sets(self, model: ImageModel | None, sets: Sequence[ValidationSet] | None = None) -> SetScores:
        """The mean scores of a network, or of bicubic, on each set; all processes share the images."""
        count = sum(len(image_set.images) for image_set in (self.sets if sets is None else sets))
        scored = [index for index in self._own_images if index < count]
        figures = {
            index: self._of_image(index, luma_of(enlarge(model, self._images[index].lr, self.scale)))
            for index in self.context.each("validation images", scored)
        }
        return self._means(figures, sets)

    def judge(self, scores: Scores) -> float:
        """The Y-PSNR in dB by which a student is judged."""
        judged = scores.by(self.goal)
        assert judged is not None  # the goal is chosen by what there is
        return judged

    def name_of(self, position: int) -> str:
        """The name of the set and of the image at a position among those of all sets."""
        image = self._images[position]
        return f"{next(each.name for each in self.sets if any(one is image for one in each.images))}/{image.name}"

    def pictures(self, position: int, models: Mapping[str, ImageModel | None]) -> dict[str, torch.Tensor]:
        """The middle of an image as networks, or bicubic (None), enlarge it, and last of its original if there is one;
        (1,3,h,w) in bytes, by their captions."""
        image = self._images[position]
        shown = {caption: enlarge(model, image.lr, self.scale) for caption, model in models.items()}
        shown |= {} if image.hr is None else {"original": image.hr}
        return {caption: middle_of(sr_u8) for caption, sr_u8 in shown.items()}

    @cached_property
    def _images(self) -> tuple[ValidationImage, ...]:
        return tuple(image for image_set in self.sets for image in image_set.images)

    @property
    def _own_images(self) -> range:
        """The positions of the images that this process scores."""
        rank = self.context.processes.rank
        return range(rank.index, len(self._images), rank.world_size)

    @cached_property
    def _teacher_images(self) -> Mapping[int, torch.Tensor]:
        """The luminance of the teacher's images of this process by position."""
        if self.teacher is None:
            return {}
        return {
            index: luma_of(enlarge(self.teacher, self._images[index].lr, self.scale)).float()
            for index in self.context.each("teacher: validation images", self._own_images)
        }

    def _of_image(self, index: int, sr: torch.Tensor, *, to_teacher: bool = True) -> list[float | None]:
        """The four figures of an image's luminance in the order of `Scores`."""
        image = self._images[index]
        references = [
            None if image.hr is None else luma_of(image.hr),
            self._teacher_images[index].double() if to_teacher and self.teacher is not None else None,
        ]
        figures: list[float | None] = []
        for reference in references:
            if reference is None:
                figures += [None, None]
                continue
            figures.append(min(EQUAL_DB, float(psnr(sr, reference, border=self.scale))))
            has_ssim = min(sr.shape[-2:]) - 2 * self.scale >= SSIM_WINDOW
            figures.append(float(ssim(sr, reference, border=self.scale)) if has_ssim else None)
        return figures

    def _means(
        self, figures: Mapping[int, Sequence[float | None]], sets: Sequence[ValidationSet] | None = None
    ) -> SetScores:
        """The means over each set of the figures of all processes; None if an image of the set has no such figure."""
        values = torch.zeros(len(self._images), 4, dtype=torch.float64)
        for index, row in figures.items():
            for column, figure in enumerate(row):
                values[index, column] = math.nan if figure is None else figure
        self.context.processes.sum_(values)
        means, first = {}, 0
        for image_set in self.sets if sets is None else sets:
            rows = values[first : first + len(image_set.images)]
            first += len(image_set.images)
            columns = [float(rows[:, column].mean()) for column in range(4)]
            means[image_set.name] = Scores(*(None if math.isnan(mean) else mean for mean in columns))
        return means


@torch.no_grad()
def enlarge(model: ImageModel | None, lr_u8: torch.Tensor, scale: int) -> torch.Tensor:
    """An image (1,3,h,w) in bytes as a network enlarges it in fp32, or bicubic without one; in bytes, on the CPU."""
    lr = lr_u8.float() / 255
    if model is None:
        return to_u8(upscale_bicubic(lr, scale))

    def run(window: torch.Tensor) -> torch.Tensor:
        with arithmetic(model.device, "fp32"):
            sr: torch.Tensor = model(window.to(model.device))
        return sr.float().cpu()

    descriptor = model.descriptor
    # Tiles of a network that sees the whole image would change its figures.
    tile = None if descriptor.receptive_radius is not None else 0
    memory = None if model.network is None else pixel_bytes(model.network.spec)
    return to_u8(run_tiled(run, lr, descriptor, tile=tile, pixel_bytes=memory).sr)


SHEET_SIDE = 480
"""Largest side in pixels of the pictures that a person looks at."""


def middle_of(image_u8: torch.Tensor) -> torch.Tensor:
    height, width = (min(length, SHEET_SIDE) for length in image_u8.shape[-2:])
    return centre_crop(image_u8, height, width)
