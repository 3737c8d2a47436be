"""Sampling of the patches of each step, and the batches of them.

A draw is a pure function of (seed, step, global sample index). A run records hashes of its draws: two runs with the
same hashes had the same batches. LR and HR patches are cropped and flipped in one gather on the device, together with a
teacher's outputs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from compressor.base.compute_device import ComputeDevice
from compressor.base.randomness import crop_each, uniforms
from compressor.data.store import DegradedImages, ImageStore, Plane
from compressor.degradation.steps import Draws
from compressor.models.fitting.patches import CANDIDATES, COUNT, PATCH, texture_of

DIGEST_BYTES = 8
"""Bytes of one step's hash; the hashes of several steps are hashed into 16 bytes per row of metrics."""

DEGRADED_MARGIN = 4
"""LR pixels around a patch, at least, that are degraded with it: blurs and blocks reach beyond its border."""


@dataclass(frozen=True)
class Draw:
    """One step's patches: for each sample its image, top-left corner in LR pixels, and three symmetry flags."""

    images: torch.Tensor
    tops: torch.Tensor
    lefts: torch.Tensor
    hflip: torch.Tensor
    vflip: torch.Tensor
    transpose: torch.Tensor


@dataclass(frozen=True)
class Sampler:
    """A sampler that draws images uniformly, valid positions uniformly, and hflip, vflip and transpose each with
    probability 1/2 (EDSR's code and its successors; BasicSR).

    With `candidates` over 1 that many positions are drawn in each image, and the most textured LR patch is used (srkd's
    own method).
    """

    heights: torch.Tensor
    widths: torch.Tensor
    lr_patch: int
    seed: int
    candidates: int = 1
    lr: Plane | None = None
    """The LR images if candidates are compared; else None, as a reference keeps a mapped file in use."""

    @classmethod
    def for_store(cls, store: ImageStore, *, lr_patch: int, seed: int, candidates: int = 1) -> Sampler:
        lr = store.clean_lr if candidates > 1 else None  # where noise is added, flat patches would look textured
        return cls(store.lr.heights, store.lr.widths, lr_patch, seed, candidates=candidates, lr=lr)

    def draw(self, step: int, samples: Sequence[int]) -> Draw:
        u = torch.from_numpy(uniforms("patches", self.seed, step, samples, 6))
        images = (u[:, 0] * len(self.heights)).long()
        tops, lefts = self._positions(images, u[:, 1], u[:, 2])
        draw = Draw(images, tops, lefts, *(u[:, k] < 0.5 for k in (3, 4, 5)))
        return draw if self.lr is None else self._most_textured(self.lr, draw, step, samples)

    def _most_textured(self, lr: Plane, draw: Draw, step: int, samples: Sequence[int]) -> Draw:
        """Return the draw with the most textured of its own position and the other candidates."""
        others = self.candidates - 1
        u = torch.from_numpy(uniforms("candidates", self.seed, step, samples, 2 * others))
        repeated = draw.images[:, None].expand(-1, others)
        tops, lefts = self._positions(repeated, u[:, :others], u[:, others:])
        tops, lefts = torch.cat([draw.tops[:, None], tops], 1), torch.cat([draw.lefts[:, None], lefts], 1)
        images, upright = draw.images.repeat_interleave(self.candidates), torch.zeros(tops.numel(), dtype=torch.bool)
        every = Draw(images, tops.flatten(), lefts.flatten(), upright, upright, upright)
        # Integer sums, compared on the CPU: every device selects the same patch.
        best = texture_of(gather(lr, every, self.lr_patch, 1)).cpu().view(tops.shape).argmax(1, keepdim=True)
        return replace(draw, tops=tops.gather(1, best)[:, 0], lefts=lefts.gather(1, best)[:, 0])

    def _positions(self, images: torch.Tensor, u: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return tops and lefts from uniform numbers in [0,1)."""
        tops = (u * (self.heights[images] - self.lr_patch + 1)).long()
        return tops, (v * (self.widths[images] - self.lr_patch + 1)).long()


class BatchHashes:
    """The hashes of the steps' draws, kept until they are written into a row of metrics.

    The draw is hashed where the batch is created, a few hundred bytes per step; `redraw` repeats the draw of a step
    that a resumed run trained before it was interrupted.
    """

    def __init__(self, redraw: Callable[[int], Draw]) -> None:
        self._redraw = redraw
        self._hashes: dict[int, bytes] = {}
        self.pixels: str | None = None
        """The hash of the first batch's pixels, until it is taken: the same draw from other images is another batch."""

    def record(self, step: int, draw: Draw) -> None:
        self._hashes[step] = hash_draw(step, draw)

    def take(self, since: int, until: int) -> dict[str, str]:
        """Return a hash of the batches from step `since` to before `until`; once also that of the first pixels."""
        digest = hashlib.blake2b(digest_size=16)
        for step in range(since, until):
            digest.update(self._hashes.pop(step) if step in self._hashes else hash_draw(step, self._redraw(step)))
        hashes = {"batches": digest.hexdigest()}
        if self.pixels is not None:
            hashes["first_pixels"], self.pixels = self.pixels, None
        return hashes


def hash_draw(step: int, draw: Draw) -> bytes:
    digest = hashlib.blake2b(step.to_bytes(8, "little"), digest_size=DIGEST_BYTES)
    for column in (draw.images, draw.tops, draw.lefts, draw.hflip, draw.vflip, draw.transpose):
        digest.update(column.numpy().tobytes())
    return digest.digest()


@dataclass(frozen=True)
class WiderPatches:
    """Square windows of the LR images around the patches of a batch, with the same symmetries: a teacher that runs on
    them sees what lies beyond the patches.

    A window that would leave its image is moved inwards, so the patch's place in it differs by sample. A patch at the
    border of its image is at the border of its window, too, and the teacher sees the same border as in the image.
    """

    lr: torch.Tensor
    patch: int
    """The side of the patches in LR pixels."""
    corners: tuple[tuple[int, int], ...]
    """The top left corner of each patch in its window."""

    def crop(self, images: torch.Tensor) -> torch.Tensor:
        """The part over the patches of what the teacher makes of the windows: an output, or features."""
        scale = images.shape[-1] // self.lr.shape[-1]
        side = self.patch * scale
        corners = [(top * scale, left * scale) for top, left in self.corners]
        return crop_each(images, corners, side, side)


@dataclass(frozen=True)
class Batch:
    """LR and HR patches in [0,1], NCHW, and wider patches for the teacher."""

    lr: torch.Tensor
    hr: torch.Tensor | None
    """None if there are only LR images: then the teacher's outputs are the labels."""
    labels: torch.Tensor | None = None
    """The teacher's outputs for the LR patches, from a cache."""
    wider: WiderPatches | None = None

    def digest(self) -> str:
        """A hash of the LR pixels, to show that two runs had the same batches; their labels may differ."""
        bytes_u8 = (self.lr * 255).round().to(torch.uint8).cpu().numpy().tobytes()
        return hashlib.blake2b(bytes_u8, digest_size=16).hexdigest()


@dataclass(frozen=True)
class Batches:
    """The batches of a run by step; `samples` are this process's global sample indices."""

    store: ImageStore
    sampler: Sampler
    samples: Sequence[int]
    labels: Plane | None = None
    """The teacher's outputs for the LR images of the store."""
    device: torch.device | None = None
    """The device of the batches; None: the store's."""
    all_samples: Sequence[int] | None = None
    """The samples of all processes, if `samples` are only a part of them."""
    teacher_side: int | None = None
    """The side of the windows around the patches on which the teacher runs; None: it runs on the patches."""

    @classmethod
    def for_store(
        cls,
        store: ImageStore,
        *,
        batch: int,
        lr_patch: int,
        seed: int,
        device: torch.device | None = None,
        candidates: int = 1,
    ) -> Batches:
        sampler = Sampler.for_store(store, lr_patch=lr_patch, seed=seed, candidates=candidates)
        return cls(store, sampler, range(batch), device=device)

    def for_samples(self, samples: Sequence[int]) -> Batches:
        """Return one process's share of every batch; the hashes are still those of whole batches."""
        return replace(self, samples=samples, all_samples=self.samples)

    def undegraded(self) -> Batches:
        """The same patches before they were degraded."""
        return replace(self, store=replace(self.store, lr=self.store.clean_lr, degraded=None), labels=None)

    @cached_property
    def hashes(self) -> BatchHashes:
        # No reference to self, which would be a cycle: files stay in use until the last reference is gone.
        sampler, samples = self.sampler, self.all_samples or self.samples
        return BatchHashes(lambda step: sampler.draw(step, samples))

    def at(self, step: int) -> Batch:
        draw = self.sampler.draw(step, self.samples)
        patch, scale = self.sampler.lr_patch, self.store.scale
        crops, windows, corners = dict[str, tuple[Plane, Draw, int, int]](), None, tuple[tuple[int, int], ...]()
        for name, plane in (("hr", self.store.hr), ("labels", self.labels)):
            if plane is not None:
                crops[name] = (plane, draw, patch * scale, scale)
        degraded, side = self.store.degraded, self.teacher_side
        if degraded is not None and not degraded.once:
            windows = self._degraded(degraded, step, draw)
        else:
            crops["lr"] = (self.store.lr, draw, patch, 1)
            if side is not None:
                larger, corners = around(draw, self.sampler.heights, self.sampler.widths, patch, side)
                crops["wider"] = (self.store.lr, larger, side, 1)
        found = dict(zip(crops, gather_each(list(crops.values())), strict=True))
        lr = self._to_unit_range(found["lr"]) if windows is None else windows.crop(windows.lr)
        if "wider" in found:
            windows = WiderPatches(self._to_unit_range(found["wider"]), patch, corners)
        batch = Batch(
            lr=lr,
            hr=self._to_unit_range(found["hr"]) if "hr" in found else None,
            labels=ComputeDevice(lr.device).receive(found["labels"]).float() if "labels" in found else None,
            wider=None if side is None else windows,
        )
        if self.all_samples is not None and len(self.all_samples) > len(self.samples):
            return batch
        self.hashes.record(step, draw)
        if step == 0:
            self.hashes.pixels = batch.digest()
        return batch

    def _degraded(self, degraded: DegradedImages, step: int, draw: Draw) -> WiderPatches:
        """The windows around the patches of a draw, degraded one by one, as the teacher and the student see them."""
        patch, sampler = self.sampler.lr_patch, self.sampler
        smallest = int(min(sampler.heights.min(), sampler.widths.min()))
        side = min(max(self.teacher_side or 0, patch + 2 * DEGRADED_MARGIN), smallest)
        windows, corners = around(draw, sampler.heights, sampler.widths, patch, side)
        originals = self._to_unit_range(gather(degraded.images, windows, side * degraded.scale, degraded.scale))
        lr_u8 = [
            degraded.degradation.apply(original, degraded.scale, Draws(sampler.seed, step, sample))
            for original, sample in zip(originals, self.samples, strict=True)
        ]
        return WiderPatches(self._to_unit_range(torch.stack(lr_u8)), patch, corners)

    def _to_unit_range(self, patches_u8: torch.Tensor) -> torch.Tensor:
        """Return float patches in [0,1]; they are copied to the device as bytes, a quarter of the traffic."""
        patches = patches_u8 if self.device is None else ComputeDevice(self.device).receive(patches_u8)
        return patches.float().div_(255)


def draw_calibration_patches(store: ImageStore, *, seed: int, count: int = COUNT, side: int = PATCH) -> torch.Tensor:
    """Return low-resolution patches (count, 3, side, side) for a fit: the most textured of every CANDIDATES drawn.

    If an image is smaller, all patches are reduced to its size.
    """
    side = min(side, int(store.lr.heights.min()), int(store.lr.widths.min()))
    batches = Batches.for_store(store, batch=1, lr_patch=side, seed=seed, device=torch.device("cpu"))
    patches = []
    for step in range(count):
        drawn = batches.sampler.draw(step, range(CANDIDATES))
        # By the images as they are: where noise is added, the flattest patch would look textured.
        best = int(texture_of(gather(store.clean_lr, drawn, side, 1)).argmax())
        patches.append(replace(batches, samples=range(best, best + 1)).at(step).lr[0])
    return torch.stack(patches)


def around(
    draw: Draw, heights: torch.Tensor, widths: torch.Tensor, patch: int, side: int
) -> tuple[Draw, tuple[tuple[int, int], ...]]:
    """Return the draw of windows of a side around patches, inside their images, and the corners of patches in them."""
    at, sizes = (draw.tops, draw.lefts), (heights[draw.images], widths[draw.images])
    tops, lefts = (
        (start - (side - patch) // 2).clamp(min=0).minimum(size - side) for start, size in zip(at, sizes, strict=True)
    )
    rows, columns, spare = draw.tops - tops, draw.lefts - lefts, side - patch
    rows = torch.where(draw.vflip, spare - rows, rows)
    columns = torch.where(draw.hflip, spare - columns, columns)
    rows, columns = torch.where(draw.transpose, columns, rows), torch.where(draw.transpose, rows, columns)
    return replace(draw, tops=tops, lefts=lefts), tuple(zip(rows.tolist(), columns.tolist(), strict=True))


def gather(plane: Plane, draw: Draw, patch: int, scale: int) -> torch.Tensor:
    """Return patches (N,3,patch,patch) with the plane's dtype and device. Order: hflip, vflip, then transpose."""
    return gather_each([(plane, draw, patch, scale)])[0]


def gather_each(crops: Sequence[tuple[Plane, Draw, int, int]]) -> list[torch.Tensor]:
    """Return the patches of several planes as `gather` does; where they lie is copied to a device at once."""
    devices = [ComputeDevice(plane.flat.device) for plane, *_ in crops]
    lines = [_lines(*crop) for crop, device in zip(crops, devices, strict=True) if not device.is_cpu]
    away = next((device for device in devices if not device.is_cpu), None)
    sent = iter(()) if away is None else iter(away.receive(torch.stack(lines)))
    return [
        _gather_by_slices(*crop) if device.is_cpu else _gather_by_addresses(crop[0].flat, crop[2], next(sent))
        for crop, device in zip(crops, devices, strict=True)
    ]


def _gather_by_slices(plane: Plane, draw: Draw, patch: int, scale: int) -> torch.Tensor:
    """Return patches copied one by one: on a CPU nine times as fast as addresses, of eight bytes per byte of pixels."""
    flat = plane.flat.numpy()
    patches = np.empty((len(draw.images), 3, patch, patch), flat.dtype)
    columns = (plane.offsets[draw.images], plane.heights[draw.images], plane.widths[draw.images])
    switches = (draw.hflip, draw.vflip, draw.transpose)
    rows = zip(*(c.tolist() for c in (*columns, draw.tops * scale, draw.lefts * scale, *switches)), strict=True)
    for target, (start, height, width, top, left, hflip, vflip, transpose) in zip(patches, rows, strict=True):
        image = flat[start : start + 3 * height * width].reshape(3, height, width)
        # Copy before flipping: rows are read from memory in order, and flipped within the cache.
        crop = np.ascontiguousarray(image[:, top : top + patch, left : left + patch])
        crop = crop[:, :, ::-1] if hflip else crop
        crop = crop[:, ::-1] if vflip else crop
        target[:] = crop.transpose(0, 2, 1) if transpose else crop
    return torch.from_numpy(patches)


def _lines(plane: Plane, draw: Draw, patch: int, scale: int) -> torch.Tensor:
    """Return where the patches lie, (4,N): corner, size of a channel, and the steps between rows and between columns.

    A crop under one of the eight symmetries is affine in its own row i and column j: the address of a pixel is corner +
    i·row_step + j·column_step, with steps ±width and ±1, swapped under transposition.
    """
    widths, areas = plane.widths[draw.images], plane.heights[draw.images] * plane.widths[draw.images]
    corner = plane.offsets[draw.images] + draw.tops * scale * widths + draw.lefts * scale
    corner = corner + draw.hflip * (patch - 1) + draw.vflip * (patch - 1) * widths
    down, right = torch.where(draw.vflip, -widths, widths), torch.where(draw.hflip, -1, 1)
    steps = torch.where(draw.transpose, right, down), torch.where(draw.transpose, down, right)
    return torch.stack([corner, areas, *steps])


def _gather_by_addresses(flat: torch.Tensor, patch: int, lines: torch.Tensor) -> torch.Tensor:
    """Return all patches from one gather, without a loop that a GPU would wait for."""
    corner, areas, row_step, column_step = lines
    along = torch.arange(patch, device=flat.device)
    inside = row_step[:, None, None] * along[:, None] + column_step[:, None, None] * along
    channels = areas[:, None] * torch.arange(3, device=flat.device)
    return flat[(corner[:, None] + channels)[:, :, None, None] + inside[:, None]]
