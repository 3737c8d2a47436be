"""From a draw to tensors: crop and symmetry in one gather on the device, LR and HR alike."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from compressor.data.sampler import Draw, Sampler
from compressor.data.store import ImageStore, Plane


@dataclass(frozen=True)
class Batch:
    """LR and HR patches in [0,1], NCHW."""

    lr: torch.Tensor
    hr: torch.Tensor | None
    """None where there are LR images only: the teacher gives the labels."""

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

    @classmethod
    def over(cls, store: ImageStore, *, batch: int, lr_patch: int, seed: int) -> Batches:
        return cls(store, Sampler.over(store, lr_patch=lr_patch, seed=seed), range(batch))

    def at(self, step: int) -> Batch:
        draw = self.sampler.draw(step, self.samples)
        patch, scale = self.sampler.lr_patch, self.store.scale
        hr = self.store.hr
        return Batch(
            lr=gather(self.store.lr, draw, patch, 1).float().div_(255),
            hr=None if hr is None else gather(hr, draw, patch * scale, scale).float().div_(255),
        )


def gather(plane: Plane, draw: Draw, patch: int, scale: int) -> torch.Tensor:
    """uint8 patches (N,3,patch,patch).

    A crop under one of the eight symmetries is affine in its own row i and column j: the address of a pixel is
    corner + i·row_step + j·column_step, with steps ±width and ±1, swapped under transposition. Order: hflip, vflip,
    then transpose.
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
