"""Preparation of a run's training and validation images, from the options about data."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from compressor.base.cache_folder import DEFAULT_LIMIT, CacheFolder, default_folder
from compressor.base.choices import Border
from compressor.base.context import QUIET, Context
from compressor.base.errors import SrkdError, UsageError
from compressor.data.decode import decode_all
from compressor.data.doubts import doubts
from compressor.data.store import ImageStore
from compressor.images.files import image_size
from compressor.images.sets import ImagePair, embedded_pairs, find_lr_images, find_sets

MAX_HR_SIDE = 480
"""Largest side in HR pixels of the image centre that is validated, to keep validation fast."""

VALIDATION_PATCH = 4

MIN_IMAGES_TO_HOLD_OUT = 20
"""Number of images from which on a twentieth (ten at most) is held out for validation; with fewer, embedded photos are
used."""

MOST_NAMES = 5
"""Largest number of validation images that a note names."""


@dataclass(frozen=True)
class ValidationImage:
    """The centre crops of an image in [0,1], 1,3,H,W."""

    name: str
    lr: torch.Tensor
    hr: torch.Tensor


def validation_images(store: ImageStore) -> tuple[ValidationImage, ...]:
    """Return the centre of each image of the store, and the same region of its LR image."""
    if store.hr is None:
        raise SrkdError("validation needs images with their HR originals: give some with --val")
    lr_side = MAX_HR_SIDE // store.scale
    images = []
    for index, name in enumerate(store.names):
        lr, hr = store.lr.image(index), store.hr.image(index)
        h, w = (min(lr_side, n) for n in lr.shape[1:])
        top, left = (lr.shape[1] - h) // 2, (lr.shape[2] - w) // 2
        s = store.scale
        lr, hr = lr[:, top : top + h, left : left + w], hr[:, top * s : (top + h) * s, left * s : (left + w) * s]
        images.append(ValidationImage(name, lr.float().div(255)[None], hr.float().div(255)[None]))
    return tuple(images)


@dataclass(frozen=True)
class DataChoice:
    """The options about data; without any, the embedded photos. `cache_size` is in bytes."""

    data: Path | None = None
    lr: Path | None = None
    val: Path | None = None
    lr_border: Border = "mirror"
    lr_only: Path | None = None
    cache_size: int = DEFAULT_LIMIT

    def __post_init__(self) -> None:
        if self.lr_only is not None and (self.data or self.lr):
            raise UsageError("--lr-only takes neither --data nor --lr-images: its images have no HR partners")
        if self.lr is not None and self.data is None:
            raise UsageError("--lr-images names the LR images of --data, and no --data is given")

    def cache(self) -> CacheFolder:
        return CacheFolder(default_folder(), self.cache_size)


@dataclass(frozen=True)
class Data:
    """Training images, validation images, and the name of their source."""

    train: ImageStore
    validation: tuple[ValidationImage, ...]
    origin: str


def prepare_data(choice: DataChoice, *, scale: int, lr_patch: int, context: Context = QUIET) -> Data:
    """Return the decoded training and validation images; a note reports skipped images."""
    decode = partial(decode_all, scale=scale, border=choice.lr_border, cache=choice.cache(), context=context)
    # The embedded photos are not cached, as decoding them takes no noticeable time.
    decode_embedded = partial(decode_all, scale=scale, border=choice.lr_border)
    held_out = range(0)
    _require_patches(choice, scale, lr_patch)
    if choice.lr_only is not None:
        context.note(f"no HR images: the teacher's output is the only label of the images in {choice.lr_only}")
        images, origin = decode(find_lr_images(choice.lr_only)), choice.lr_only.resolve().name
    elif choice.data is not None:
        sets = find_sets(choice.data, scale=scale, lr=choice.lr)
        # Both parts are decoded together, so that held-out images change nothing in the cache.
        images = decode([pair for image_set in sets for pair in image_set.pairs])
        origin = ", ".join(image_set.name for image_set in sets)
        if choice.val is None:
            held_out = _held_out(len(images.images))
    else:
        context.note(
            "no --data: training on the embedded photos, which show that everything works, not what it can reach"
        )
        images, origin = decode_embedded(embedded_pairs("train")), "embedded photos"
    train = images.select(
        [position for position in range(len(images.images)) if position not in held_out], lr_patch=lr_patch
    )
    if held_out:
        validation = images.select(held_out, lr_patch=VALIDATION_PATCH)
    elif choice.val is not None:
        validation = decode(_pairs(choice.val, scale, None)).select(lr_patch=VALIDATION_PATCH)
    else:
        validation = decode_embedded(embedded_pairs("val")).select(lr_patch=VALIDATION_PATCH)
    if train.skipped:
        first = train.skipped[0]
        context.note(f"{len(train.skipped)} images left out; the first: {first.path}: {first.reason} (all in run.json)")
    if choice.data is not None or choice.lr_only is not None:
        for line in doubts(train):
            context.note(f"about these images: {line}")
    data = Data(train, validation_images(validation), origin)
    source = "images of --data that are not trained on" if held_out else "embedded photos"
    source = f"images of {choice.val}" if choice.val is not None else source
    context.note(f"validating on {len(data.validation)} {source}: {_list_names(data.validation)}")
    return data


def _list_names(images: Sequence[ValidationImage]) -> str:
    names = ", ".join(image.name for image in images[:MOST_NAMES])
    return names if len(images) <= MOST_NAMES else f"{names} and {len(images) - MOST_NAMES} more (run.json has all)"


def _require_patches(choice: DataChoice, scale: int, lr_patch: int) -> None:
    """Refuse a patch larger than every image, by the files' headers: decoding thousands may take an hour."""
    if choice.lr_only is not None:
        files, side = [image.lr for image in find_lr_images(choice.lr_only)], lr_patch
    else:
        pairs = embedded_pairs("train") if choice.data is None else _pairs(choice.data, scale, choice.lr)
        files, side = [pair.hr for pair in pairs], lr_patch * scale
    largest = (0, 0)
    for file in files:
        with suppress(SrkdError):  # an unreadable file is skipped later, with the reason
            largest = max(largest, image_size(file), key=min)
        if min(largest) >= side:
            return
    if min(largest) > 0:
        room = min(largest) // (side // lr_patch)
        raise UsageError(
            f"schedule.lr_patch={lr_patch}: a patch has {side}x{side} pixels of an image, and none of the {len(files)} "
            f"images is that large (the largest is {largest[0]}x{largest[1]}): --lr-patch {room} or less"
        )


@dataclass(frozen=True)
class ImageCounts:
    """The numbers of a run's images, from their file names, before any is decoded."""

    origin: str
    training: int
    validation: int
    labels: str


def count_images(choice: DataChoice, *, scale: int) -> ImageCounts:
    """Return the numbers of a run's images without reading one."""
    val = embedded_pairs("val") if choice.val is None else _pairs(choice.val, scale, None)
    if choice.lr_only is not None:
        return ImageCounts(choice.lr_only.resolve().name, len(find_lr_images(choice.lr_only)), len(val), "teacher")
    if choice.data is None:
        return ImageCounts("embedded photos", len(embedded_pairs("train")), len(val), "HR")
    images = len(_pairs(choice.data, scale, choice.lr))
    held_out = len(_held_out(images)) if choice.val is None else 0
    return ImageCounts(choice.data.resolve().name, images - held_out, held_out or len(val), "HR")


def _pairs(folder: Path, scale: int, lr: Path | None) -> tuple[ImagePair, ...]:
    return tuple(pair for image_set in find_sets(folder, scale=scale, lr=lr) for pair in image_set.pairs)


def _held_out(images: int) -> range:
    """Return every k-th position, or none if there are few images."""
    if images < MIN_IMAGES_TO_HOLD_OUT:
        return range(0)
    stride = max(20, -(-images // 10))
    return range(stride // 2, images, stride)
