"""The drop of an int8 file in Y-PSNR, measured on photos that it was not calibrated on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from compressor.base.choices import Goal
from compressor.base.context import QUIET, Context
from compressor.base.errors import UsageError
from compressor.images.metrics import luma_of, psnr, to_u8
from compressor.images.scores import EQUAL_DB, GOAL_WORDS
from compressor.images.sets import embedded_photos, evenly_spaced_photos
from compressor.inference.tiling import run_tiled
from compressor.models.networks.base import ImageModel, Network
from export.formats.conversion import Int8Options
from export.formats.proof_inputs import middle_of_photo, within
from export.formats.table import MIN_PSNR_TO_SOURCE

MAX_PHOTOS = 16
LARGEST = (192, 192)
"""Largest width and height in LR pixels of the middle part of a photo that is measured."""

Run = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class QualityDrop:
    """Mean Y-PSNR in dB of network and file to what the network is judged by, and PSNR between them (None: equal)."""

    psnr_y_source: float
    psnr_y: float
    psnr_to_source: float | None
    photos: int
    goal: Goal = "original"

    @property
    def drop(self) -> float:
        return self.psnr_y_source - self.psnr_y

    def reason(self, max_drop: float | None) -> str | None:
        """Return in one line why the drop is too large; None if it is not, or without a bound."""
        if max_drop is None:
            return None
        if self.drop > max_drop:
            return (
                f"loses {self.drop:.3f} dB of Y-PSNR {GOAL_WORDS[self.goal]} on {self.photos} photos; --max-drop "
                f"{max_drop:g} is allowed"
            )
        if self.psnr_to_source is not None and self.psnr_to_source < MIN_PSNR_TO_SOURCE:
            return f"is {self.psnr_to_source:.1f} dB from the network's images; {MIN_PSNR_TO_SOURCE:g} dB is needed"
        return None

    def facts(self) -> dict[str, object]:
        to_source = None if self.psnr_to_source is None else round(self.psnr_to_source, 2)
        goal = {} if self.goal == "original" else {"goal": self.goal}
        return {"drop_db": round(self.drop, 4), "psnr_to_source_db": to_source, "photos": self.photos, **goal}

    def __str__(self) -> str:
        apart = (
            "equal images" if self.psnr_to_source is None else f"{self.psnr_to_source:.1f} dB to the network's image"
        )
        return f"{-self.drop:+.3f} dB of Y-PSNR {GOAL_WORDS[self.goal]}, {apart}"


@dataclass(frozen=True)
class QualityPhotos:
    """Photos with their LR images and the network's results."""

    network: Network
    photos: Mapping[str, Path]
    size: tuple[int, int] | None = None
    """Width and height of the only LR size that a file takes; None: any."""
    largest: tuple[int, int] | None = None
    """Width and height of the largest LR size that a file takes; None: any."""
    teacher: Callable[[], ImageModel] | None = None
    """Loads the teacher whose images take the place of the originals."""
    context: Context = QUIET

    @classmethod
    def of(
        cls,
        network: Network,
        options: Int8Options,
        size: tuple[int, int] | None = None,
        largest: tuple[int, int] | None = None,
        context: Context = QUIET,
    ) -> QualityPhotos:
        """At most `MAX_PHOTOS` photos of the options' folder, evenly spaced, or the embedded validation photos."""
        folder = options.data
        photos = embedded_photos("val") if folder is None else evenly_spaced_photos(folder, MAX_PHOTOS, option="--data")
        return cls(network, photos, size, largest, options.teacher, context)

    @cached_property
    def images(self) -> tuple[tuple[torch.Tensor, torch.Tensor, torch.Tensor], ...]:
        """For each photo LR in [0,1], HR (or the teacher's image) and the network's in bytes, each (1, C, H, W)."""
        descriptor = self.network.descriptor
        largest = within(LARGEST, self.largest)
        teacher = None if self.teacher is None else self.teacher()
        images = []
        with torch.no_grad():
            for path in self.context.each("photos for int8", self.photos.values()):
                pair = middle_of_photo(path, descriptor, self.size, largest)
                if pair is not None:
                    lr, hr = pair
                    wanted = hr if teacher is None else to_u8(run_tiled(teacher, lr, teacher.descriptor).sr)
                    images.append((lr, wanted, to_u8(self.network(lr))))
        if not images:
            raise UsageError("the photos are too small to measure the file on: give others with --data")
        return tuple(images)

    def measure(self, run: Run) -> QualityDrop:
        """The quality of the images that `run` returns for the photos."""
        scale = self.network.descriptor.scale
        source, file, squares, values = 0.0, 0.0, 0.0, 0
        for lr, hr, network_u8 in self.context.each("compare photos", self.images):
            file_u8 = to_u8(run(lr))
            source += psnr_of(network_u8, hr, scale)
            file += psnr_of(file_u8, hr, scale)
            squares += float((file_u8.double() - network_u8.double()).square().sum())
            values += file_u8.numel()
        count = len(self.images)
        to_source = None if squares == 0 else 10 * math.log10(255**2 * values / squares)
        goal: Goal = "original" if self.teacher is None else "teacher"
        return QualityDrop(source / count, file / count, to_source, count, goal)


def psnr_of(sr_u8: torch.Tensor, hr_u8: torch.Tensor, border: int) -> float:
    """The Y-PSNR in dB of images in bytes, `EQUAL_DB` at most, with a border left out; for grey ones the PSNR."""
    sides = (image.double() if hr_u8.shape[1] == 1 else luma_of(image) for image in (sr_u8, hr_u8))
    return min(EQUAL_DB, float(psnr(*sides, border=border).mean()))
