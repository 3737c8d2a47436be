"""Photos, teachers and batches for the tests of the teacher cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image

from compressor.base.cache_folder import CacheFolder
from compressor.data.batches import Batches
from compressor.data.store import ImageStore
from compressor.data.teacher_cache import TeacherCache
from compressor.images.sets import ImagePair
from compressor.models.networks.base import Network
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import build
from compressor.teachers.teacher import Teacher
from tests.support.data_cache_cases import noise

SCALE, PATCH = 2, 8
SETTINGS = ("schedule.batch=2", f"schedule.lr_patch={PATCH}", "schedule.validate_every=3", "schedule.rate=1e-3")


def images(folder: Path, seeds: Sequence[int] = (0, 1, 2)) -> tuple[ImagePair, ...]:
    folder.mkdir(exist_ok=True)
    for seed in seeds:
        Image.fromarray(noise(50 + 6 * seed, 70 - 2 * seed, seed)).save(folder / f"{seed}.png")
    return tuple(ImagePair(str(seed), folder / f"{seed}.png", None) for seed in seeds)


def edsr(seed: int = 0, width: int = 6) -> Network:
    return build(EDSRSpec(scale=SCALE, width=width, depth=1), seed=seed)


def symmetric() -> Network:
    """Return the average of EDSR over the eight symmetries, which commutes with each of them."""

    class Symmetric(type(edsr())):  # type: ignore[misc]
        def forward(self, lr: torch.Tensor) -> torch.Tensor:
            views = [lr, lr.flip(-1), lr.flip(-2), lr.flip(-1, -2)]
            outs = [super(Symmetric, self).forward(v) for v in [*views, *(v.transpose(-1, -2) for v in views)]]
            outs[4:] = [out.transpose(-1, -2) for out in outs[4:]]
            flips = [(), (-1,), (-2,), (-1, -2)]
            return torch.stack([out.flip(flips[k % 4]) for k, out in enumerate(outs)]).mean(0)

    network = edsr()
    network.__class__ = Symmetric
    return network


def counting(teacher: Teacher) -> list[tuple[int, ...]]:
    """Return a list that records the shapes of the teacher's inputs from now on."""
    fed: list[tuple[int, ...]] = []
    teacher.network.register_forward_pre_hook(lambda _, inputs: fed.append(tuple(inputs[0].shape)))
    return fed


def cached_batches(teacher: Teacher, store: ImageStore, folder: Path, batch: int = 8) -> Batches:
    cache = TeacherCache.plan(teacher, store, folder=CacheFolder(folder))
    plain = Batches.for_store(store, batch=batch, lr_patch=PATCH, seed=5)
    return replace(plain, labels=cache.fill(teacher))


def upright(batches: Batches) -> Batches:
    """Return the same batches without symmetries."""

    @dataclass(frozen=True)
    class Upright(type(batches.sampler)):  # type: ignore[misc]
        def draw(self, step, samples):
            draw = super().draw(step, samples)
            still = torch.zeros_like(draw.hflip)
            return replace(draw, hflip=still, vflip=still, transpose=still)

    return replace(batches, sampler=Upright(**vars(batches.sampler)))


def inner(images: torch.Tensor, radius: int) -> torch.Tensor:
    return images[..., radius * SCALE : -radius * SCALE, radius * SCALE : -radius * SCALE]
