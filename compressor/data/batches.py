"""From a draw to tensors: crop and symmetry in one gather on the device, LR and HR alike."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import numpy as np
import torch

from compressor.data.sampler import BatchHashes, Draw, Sampler
from compressor.data.store import ImageStore, Plane, carried, packed

View = Literal["whole", "zoom-out"]
"""What a teacher is shown of an image: the LR image, or that image shrunk once more by the scale."""


@dataclass(frozen=True)
class Labelled:
    """Patches, and what the teacher made of the images they were cut from."""

    lr: torch.Tensor
    sr: torch.Tensor


@dataclass(frozen=True)
class Labels:
    """A teacher's outputs for every image of a store: LR images, or `inputs`, which are `shrink` times smaller."""

    outputs: Plane
    scale: int
    inputs: Plane | None = None
    shrink: int = 1

    def at(self, draw: Draw, lr: torch.Tensor) -> Labelled:
        """The places of the batch `lr`, under its symmetries."""
        small, patch = draw.shrunk(self.shrink), lr.shape[-1] // self.shrink
        if self.inputs is not None:
            lr = carried(gather(self.inputs, small, patch, 1), lr.device).float()
        sr = gather(self.outputs, small, patch * self.scale, self.scale)
        return Labelled(lr, carried(sr, lr.device).float())

    def to(self, device: torch.device) -> Labels:
        inputs = None if self.inputs is None else self.inputs.to(device)
        return replace(self, inputs=inputs, outputs=packed(self.outputs, device))


@dataclass(frozen=True)
class Batch:
    """LR and HR patches in [0,1], NCHW, and what a teacher cache knows of them."""

    lr: torch.Tensor
    hr: torch.Tensor | None
    """None where there are LR images only: the teacher gives the labels."""
    labels: Mapping[View, Labelled] = field(default_factory=dict)

    def digest(self) -> str:
        """A hash of the pixels, to show that two runs saw the same batches."""
        given = [patches for patches in (self.lr, self.hr) if patches is not None]
        bytes_u8 = [(patches * 255).round().to(torch.uint8).cpu().numpy().tobytes() for patches in given]
        return hashlib.blake2b(b"".join(bytes_u8), digest_size=16).hexdigest()


@dataclass(frozen=True)
class Batches:
    """Every batch of a run by its step; `samples` are this process's global sample indices."""

    store: ImageStore
    sampler: Sampler
    samples: Sequence[int]
    labels: Mapping[View, Labels] = field(default_factory=dict)
    device: torch.device | None = None
    """Where batches are wanted; none: where the store lies."""
    whole: Sequence[int] | None = None
    """Where `samples` are a part: those of all processes."""

    @classmethod
    def over(
        cls, store: ImageStore, *, batch: int, lr_patch: int, seed: int, device: torch.device | None = None
    ) -> Batches:
        return cls(store, Sampler.over(store, lr_patch=lr_patch, seed=seed), range(batch), device=device)

    def shared(self, samples: Sequence[int]) -> Batches:
        """One process's part of every batch; the witness still tells of the whole."""
        return replace(self, samples=samples, whole=self.samples)

    def labelled(self, labels: Mapping[View, Labels]) -> Batches:
        """The same batches with a teacher's outputs; positions follow the smallest of the images it was shown."""
        align = max((one.shrink for one in labels.values()), default=1)
        return replace(self, labels=labels, sampler=replace(self.sampler, align=align))

    @cached_property
    def witness(self) -> BatchHashes:
        """What was drawn, as hashes."""
        # Without a hold on self, which would be a cycle: files stay in use until the last reference to them is gone.
        sampler, samples = self.sampler, self.whole or self.samples
        return BatchHashes(lambda step: sampler.draw(step, samples))

    def at(self, step: int) -> Batch:
        draw = self.sampler.draw(step, self.samples)
        patch, scale = self.sampler.lr_patch, self.store.scale
        hr = self.store.hr
        lr = self._in_01(gather(self.store.lr, draw, patch, 1))
        batch = Batch(
            lr=lr,
            hr=None if hr is None else self._in_01(gather(hr, draw, patch * scale, scale)),
            labels={view: labels.at(draw, lr) for view, labels in self.labels.items()},
        )
        if self.whole is not None and len(self.whole) > len(self.samples):
            return batch
        self.witness.saw(step, draw)
        if step == 0:
            self.witness.saw_pixels(batch.digest())
        return batch

    def _in_01(self, patches_u8: torch.Tensor) -> torch.Tensor:
        """Bytes travel, floats are made at the goal: a quarter of the traffic."""
        there = patches_u8 if self.device is None else carried(patches_u8, self.device)
        return there.float().div_(255)


def gather(plane: Plane, draw: Draw, patch: int, scale: int) -> torch.Tensor:
    """Patches (N,3,patch,patch) as they are stored, on the plane's device. Order: hflip, vflip, then transpose."""
    return (_copied if plane.flat.device.type == "cpu" else _addressed)(plane, draw, patch, scale)


def _copied(plane: Plane, draw: Draw, patch: int, scale: int) -> torch.Tensor:
    """Crop by crop: nine times as quick on a CPU as addresses, which take eight bytes for every byte of pixels."""
    flat = plane.flat.numpy()
    patches = np.empty((len(draw.images), 3, patch, patch), flat.dtype)
    columns = (plane.offsets[draw.images], plane.heights[draw.images], plane.widths[draw.images])
    switches = (draw.hflip, draw.vflip, draw.transpose)
    rows = zip(*(c.tolist() for c in (*columns, draw.tops * scale, draw.lefts * scale, *switches)), strict=True)
    for target, (start, height, width, top, left, hflip, vflip, transpose) in zip(patches, rows, strict=True):
        image = flat[start : start + 3 * height * width].reshape(3, height, width)
        # Copied before it is turned: rows are fetched from memory in their order, and turned within the cache.
        crop = np.ascontiguousarray(image[:, top : top + patch, left : left + patch])
        crop = crop[:, :, ::-1] if hflip else crop
        crop = crop[:, ::-1] if vflip else crop
        target[:] = crop.transpose(0, 2, 1) if transpose else crop
    return torch.from_numpy(patches)


def _addressed(plane: Plane, draw: Draw, patch: int, scale: int) -> torch.Tensor:
    """All patches in one gather, without a loop that a GPU would wait for.

    A crop under one of the eight symmetries is affine in its own row i and column j: the address of a pixel is
    corner + i·row_step + j·column_step, with steps ±width and ±1, swapped under transposition.
    """
    device = plane.flat.device
    images = draw.images.to(device)
    widths, areas = plane.widths[images], plane.heights[images] * plane.widths[images]
    corner = plane.offsets[images] + draw.tops.to(device) * scale * widths + draw.lefts.to(device) * scale
    hflip, vflip, transpose = (switch.to(device) for switch in (draw.hflip, draw.vflip, draw.transpose))
    corner = corner + hflip * (patch - 1) + vflip * (patch - 1) * widths
    down = torch.where(vflip, -widths, widths)
    right = torch.where(hflip, -1, 1)
    row_step, column_step = torch.where(transpose, right, down), torch.where(transpose, down, right)
    along = torch.arange(patch, device=device)
    inside = row_step[:, None, None] * along[:, None] + column_step[:, None, None] * along
    channels = areas[:, None] * torch.arange(3, device=device)
    address = (corner[:, None] + channels)[:, :, None, None] + inside[:, None]
    return plane.flat[address]
