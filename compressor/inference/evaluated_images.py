"""The images of an evaluation: originals, and the LR images that are stored, made or degraded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from compressor.base.errors import SrkdError, UsageError
from compressor.degradation.chain import Degradation
from compressor.images.files import image_size, read_rgb_u8, read_rgb_u8_and_grey
from compressor.images.flicker import still_pixels
from compressor.images.metrics import ImageTooSmall
from compressor.images.protocol import Protocol
from compressor.images.resize import downscale_u8, mod_crop
from compressor.images.sets import AnySet, ImagePair, LrImage, LrSet, makes_lr
from compressor.inference.metric_table import Measure


@dataclass(frozen=True)
class EvaluatedPicture:
    """An original (3,H,W) cropped to the scale, if there is one, and its LR image (1,3,h,w).

    For flicker also the LR frame after it, and where both show the same, (h,w).
    """

    hr_u8: Tensor | None
    grey_file: bool
    lr: Tensor
    after: Tensor | None = None
    still: Tensor | None = None


def read_picture(
    source: ImagePair | LrImage, scale: int, protocol: Protocol, degradation: Degradation | None, *, with_frames: bool
) -> EvaluatedPicture:
    image_u8, grey_file = read_rgb_u8_and_grey(source.path)
    hr_u8 = None if isinstance(source, LrImage) else mod_crop(image_u8, scale)
    if isinstance(source, LrImage) or hr_u8 is None:
        lr_u8 = _degraded(image_u8, degradation, source.stem)
    elif degradation is not None:
        lr_u8 = degradation.of_image(hr_u8, scale, source.stem)
    elif source.lr is not None:
        lr_u8 = read_stored_lr(source.lr, hr_u8, scale)
    else:
        lr_u8 = downscale_u8(hr_u8, scale, border=protocol.lr_border)
    if not with_frames or isinstance(source, ImagePair) or source.following is None:
        return EvaluatedPicture(hr_u8, grey_file, lr_u8[None] / 255)
    after_u8 = _degraded(read_rgb_u8(source.following), degradation, source.stem)
    return EvaluatedPicture(hr_u8, grey_file, lr_u8[None] / 255, after_u8[None] / 255, still_pixels(lr_u8, after_u8))


def _degraded(lr_u8: Tensor, degradation: Degradation | None, name: str) -> Tensor:
    return lr_u8 if degradation is None else degradation.of_image(lr_u8, 1, name)


def read_stored_lr(path: Path, hr_u8: Tensor, scale: int) -> Tensor:
    lr_u8 = read_rgb_u8(path)
    height, width = hr_u8.shape[-2] // scale, hr_u8.shape[-1] // scale
    if lr_u8.shape[-2:] != (height, width):
        raise SrkdError(
            f"{path} has {lr_u8.shape[-1]}x{lr_u8.shape[-2]} pixels, its HR image needs {width}x{height} at x{scale}"
        )
    return lr_u8


def is_lr_stored(image_set: AnySet, protocol: Protocol) -> bool:
    """Whether all LR images of a set are used as they are stored."""
    return not makes_lr(image_set.sources) and not protocol.degradation


def check_sets(
    sets: Sequence[AnySet], scale: int, border: int, measures: Mapping[str, Measure], *, has_teacher: bool
) -> None:
    """Refuse images too small for a metric, and duplicate set names, before an hour is spent."""
    if not sets:
        raise UsageError("nothing to evaluate on: no image sets were given")
    names = [image_set.name for image_set in sets]
    if len(set(names)) < len(names):
        raise UsageError(f"two image sets have one name ({', '.join(sorted(names))}): rename a folder")
    if not has_teacher and any(isinstance(image_set, LrSet) for image_set in sets):
        raise UsageError("LR images alone have no originals to compare with: name a teacher, --against MODEL")
    sizes: dict[Path, tuple[int, int]] = {}
    for image_set in sets:
        for source in image_set.sources:
            width, height = image_size(source.path)
            factor = scale if isinstance(source, LrImage) else 1
            sizes[source.path] = width * factor // scale * scale, height * factor // scale * scale
    path, (width, height) = min(sizes.items(), key=lambda item: min(item[1]))
    blank = torch.zeros(1, 3, height, width)
    for measure in measures.values():
        try:
            measure(blank, blank, border=border)
        except ImageTooSmall as error:
            raise UsageError(f"{path}: {error}") from error
