"""From what the command line says about data to a training store and validation images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from compressor.data.embedded import embedded_pairs
from compressor.data.store import Border, ImageStore, build_store
from compressor.imagesets import ImagePair, find_sets
from compressor.progress import Announce, Progress, silent, unheard

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
    """What the user said about data: nothing at all means the embedded photos."""

    data: Path | None = None
    lr: Path | None = None
    val: Path | None = None
    lr_border: Border = "mirror"


@dataclass(frozen=True)
class Data:
    """Training images, validation images, and where they came from."""

    train: ImageStore
    validation: tuple[ValidationImage, ...]
    origin: str


def prepare_data(
    choice: DataChoice, *, scale: int, lr_patch: int, progress: Progress = silent, announce: Announce = unheard
) -> Data:
    """Decode the training images and set validation images apart; what was left out is announced."""
    if choice.data is None:
        announce("no --data: training on the embedded photos, which show that everything works, not what it can reach")
        train_pairs, held_out, origin = embedded_pairs("train"), embedded_pairs("val"), "embedded photos"
    else:
        sets = find_sets(choice.data, scale=scale, lr=choice.lr)
        pairs = tuple(pair for found in sets for pair in found.pairs)
        train_pairs, held_out = _split(pairs) if choice.val is None else (pairs, ())
        origin = ", ".join(found.name for found in sets)
    if choice.val is not None:
        held_out = tuple(pair for found in find_sets(choice.val, scale=scale) for pair in found.pairs)
    store = build_store(train_pairs, scale=scale, lr_patch=lr_patch, border=choice.lr_border, progress=progress)
    if store.skipped:
        first = store.skipped[0]
        announce(f"{len(store.skipped)} images left out; the first: {first.path}: {first.reason} (all in run.json)")
    validation = build_store(held_out, scale=scale, lr_patch=4, border=choice.lr_border)
    return Data(store, validation_images(validation), origin)


HELD_OUT_FROM = 20
"""From this many images on, a twentieth (ten at most) is kept apart for validation; below it, embedded photos serve."""


def _split(pairs: tuple[ImagePair, ...]) -> tuple[tuple[ImagePair, ...], tuple[ImagePair, ...]]:
    """Training and validation: every k-th image is held out, or the embedded photos serve when images are few."""
    if len(pairs) < HELD_OUT_FROM:
        return pairs, embedded_pairs("val")
    stride = max(20, -(-len(pairs) // 10))
    held_out = pairs[stride // 2 :: stride]
    return tuple(pair for pair in pairs if pair not in held_out), held_out
