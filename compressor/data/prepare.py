"""From what the command line says about data to a training store and validation images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from compressor.base.cache_folder import DEFAULT_LIMIT, CacheFolder, default_folder
from compressor.base.choices import Border
from compressor.base.context import Note, Progress, no_note, no_progress
from compressor.base.errors import SrkdError, UsageError
from compressor.data.decode import Source, build_store, decode_all
from compressor.data.store import Decoded, ImageStore
from compressor.images.sets import ImagePair, embedded_pairs, find_lr_images, find_sets

MAX_HR_SIDE = 480
"""Validation looks at the centre of an image, at most this many HR pixels a side, to stay quick."""


@dataclass(frozen=True)
class ValidationImage:
    """Centre crops in [0,1], 1,3,H,W."""

    name: str
    lr: torch.Tensor
    hr: torch.Tensor


def validation_images(store: ImageStore) -> tuple[ValidationImage, ...]:
    """The centre of each image of the store; LR is the same region of the stored LR image."""
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
    """What the user said about data: nothing at all means the embedded photos. `cache_size` is in bytes."""

    data: Path | None = None
    lr: Path | None = None
    val: Path | None = None
    lr_border: Border = "mirror"
    lr_only: Path | None = None
    cache_size: int = DEFAULT_LIMIT

    def __post_init__(self) -> None:
        if self.lr_only is not None and (self.data or self.lr):
            raise UsageError("--lr-only goes without --data and --lr: those images have no HR partners")
        if self.lr is not None and self.data is None:
            raise UsageError("--lr names the LR images of --data, and no --data is given")

    def cache(self) -> CacheFolder:
        """Where what was costly to make is kept."""
        return CacheFolder(default_folder(), self.cache_size)


@dataclass(frozen=True)
class Data:
    """Training images, validation images, and where they came from."""

    train: ImageStore
    validation: tuple[ValidationImage, ...]
    origin: str


def prepare_data(
    choice: DataChoice, *, scale: int, lr_patch: int, progress: Progress = no_progress, announce: Note = no_note
) -> Data:
    """Decode the training images and set validation images apart; what was left out is announced."""
    reading = _Reading(choice, scale, lr_patch, progress, announce)
    if choice.lr_only is not None:
        data = reading.lr_only(choice.lr_only)
    elif choice.data is not None:
        data = reading.folder(choice.data)
    else:
        announce("no --data: training on the embedded photos, which show that everything works, not what it can reach")
        train = build_store(embedded_pairs("train"), scale=scale, lr_patch=lr_patch, border=choice.lr_border)
        data = Data(train, reading.validation(), "embedded photos")
    skipped = data.train.skipped
    if skipped:
        first = skipped[0]
        announce(f"{len(skipped)} images left out; the first: {first.path}: {first.reason} (all in run.json)")
    return data


@dataclass(frozen=True)
class Found:
    """What a choice of data comes to by the names of its files; which of them can be decoded is not known yet."""

    origin: str
    training: int
    validation: int
    labels: str


def find_images(choice: DataChoice, *, scale: int) -> Found:
    """Count the images of a run without reading one."""
    val = embedded_pairs("val") if choice.val is None else _pairs(choice.val, scale, None)
    if choice.lr_only is not None:
        return Found(choice.lr_only.resolve().name, len(find_lr_images(choice.lr_only)), len(val), "teacher")
    if choice.data is None:
        return Found("embedded photos", len(embedded_pairs("train")), len(val), "HR")
    images = len(_pairs(choice.data, scale, choice.lr))
    held_out = len(_held_out(images)) if choice.val is None else 0
    return Found(choice.data.resolve().name, images - held_out, held_out or len(val), "HR")


def _pairs(folder: Path, scale: int, lr: Path | None) -> tuple[ImagePair, ...]:
    return tuple(pair for found in find_sets(folder, scale=scale, lr=lr) for pair in found.pairs)


HELD_OUT_FROM = 20
"""From this many images on, a twentieth (ten at most) is kept apart for validation; below it, embedded photos serve."""

VALIDATION_PATCH = 4


@dataclass(frozen=True)
class _Reading:
    """A choice, and what all its images have in common."""

    choice: DataChoice
    scale: int
    lr_patch: int
    progress: Progress
    announce: Note

    def lr_only(self, folder: Path) -> Data:
        """LR images without labels; whatever tells how good the student is has HR images."""
        self.announce(f"no HR images: the teacher's output is the only label of the images in {folder}")
        images = self._decoded(find_lr_images(folder))
        train = images.select(range(len(images.images)), lr_patch=self.lr_patch)
        return Data(train, self.validation(), folder.resolve().name)

    def folder(self, folder: Path) -> Data:
        """One decoding for both parts: which images are held out changes nothing in the cache."""
        sets = find_sets(folder, scale=self.scale, lr=self.choice.lr)
        pairs = tuple(pair for found in sets for pair in found.pairs)
        images = self._decoded(pairs)
        held_out = _held_out(len(pairs)) if self.choice.val is None else range(0)
        train = [position for position in range(len(pairs)) if position not in held_out]
        validation = (
            validation_images(images.select(held_out, lr_patch=VALIDATION_PATCH)) if held_out else self.validation()
        )
        origin = ", ".join(found.name for found in sets)
        return Data(images.select(train, lr_patch=self.lr_patch), validation, origin)

    def validation(self) -> tuple[ValidationImage, ...]:
        """The images of --val, or the embedded ones."""
        if self.choice.val is None:
            border = self.choice.lr_border
            pairs = embedded_pairs("val")
            return validation_images(build_store(pairs, scale=self.scale, lr_patch=VALIDATION_PATCH, border=border))
        pairs = tuple(pair for found in find_sets(self.choice.val, scale=self.scale) for pair in found.pairs)
        images = self._decoded(pairs)
        return validation_images(images.select(range(len(pairs)), lr_patch=VALIDATION_PATCH))

    def _decoded(self, sources: Sequence[Source]) -> Decoded:
        return decode_all(
            sources,
            scale=self.scale,
            border=self.choice.lr_border,
            cache=self.choice.cache(),
            progress=self.progress,
            announce=self.announce,
        )


def _held_out(images: int) -> range:
    """Every k-th image, or none where images are few."""
    if images < HELD_OUT_FROM:
        return range(0)
    stride = max(20, -(-images // 10))
    return range(stride // 2, images, stride)
