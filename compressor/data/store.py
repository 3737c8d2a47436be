"""Images decoded once into flat uint8 memory, HR beside LR, ready for batched gathers on the device."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from compressor.errors import SrkdError


@dataclass(frozen=True)
class Skipped:
    """An image that was left out, and why."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Plane:
    """Where the images of one resolution lie in flat memory (uint8 pixels): C,H,W each, one after the other."""

    flat: torch.Tensor
    offsets: torch.Tensor
    heights: torch.Tensor
    widths: torch.Tensor

    def image(self, index: int) -> torch.Tensor:
        """Image `index` as a (3,H,W) view."""
        start, h, w = (int(column[index]) for column in (self.offsets, self.heights, self.widths))
        return self.flat[start : start + 3 * h * w].view(3, h, w)

    def to(self, device: torch.device) -> Plane:
        moved = (column.to(device) for column in (self.flat, self.offsets, self.heights, self.widths))
        return Plane(*moved)


@dataclass(frozen=True)
class ImageStore:
    """HR images, mod-cropped to the scale, and their LR images of exactly 1/scale the size; or LR images alone."""

    scale: int
    names: tuple[str, ...]
    hr: Plane | None
    lr: Plane
    skipped: tuple[Skipped, ...]
    digests: tuple[str, ...]
    """One hash an image, of all its pixels, LR and HR."""

    def __len__(self) -> int:
        return len(self.names)

    @property
    def bytes(self) -> int:
        return sum(plane.flat.numel() * plane.flat.element_size() for plane in (self.lr, self.hr) if plane is not None)

    def digest(self) -> str:
        """A hash of scale, names and pixels: equal for the same images in the same order."""
        return hashlib.blake2b(repr((self.scale, self.names, self.digests)).encode(), digest_size=16).hexdigest()

    def to(self, device: torch.device) -> ImageStore:
        hr = None if self.hr is None else self.hr.to(device)
        return ImageStore(self.scale, self.names, hr, self.lr.to(device), self.skipped, self.digests)


@dataclass(frozen=True)
class Extent:
    """Where one image lies in flat memory, and how large it is."""

    start: int
    height: int
    width: int

    @property
    def bytes(self) -> int:
        return 3 * self.height * self.width


@dataclass(frozen=True)
class Stored:
    """One decoded image, and the hash of all its pixels."""

    name: str
    path: Path
    lr: Extent
    hr: Extent | None
    digest: str


@dataclass(frozen=True)
class Decoded:
    """Everything that was asked for, decoded or skipped, in the order of asking."""

    scale: int
    images: tuple[Stored | Skipped, ...]
    lr: torch.Tensor
    hr: torch.Tensor | None

    @property
    def bytes(self) -> int:
        return self.lr.numel() + (0 if self.hr is None else self.hr.numel())

    def select(self, positions: Sequence[int], *, lr_patch: int) -> ImageStore:
        """Some of the images; what is smaller than a patch is skipped, and no image left is an error."""
        kept: list[Stored] = []
        skipped: list[Skipped] = []
        for image in (self.images[position] for position in positions):
            if isinstance(image, Skipped):
                skipped.append(image)
            elif min(image.lr.height, image.lr.width) < lr_patch:
                skipped.append(Skipped(image.path, self._too_small(image, lr_patch)))
            else:
                kept.append(image)
        if not kept:
            first = f"; the first: {skipped[0].path}: {skipped[0].reason}" if skipped else ""
            raise SrkdError(f"none of {len(positions)} images can be used{first}")
        hr = [image.hr for image in kept if image.hr is not None]
        return ImageStore(
            scale=self.scale,
            names=tuple(image.name for image in kept),
            hr=None if self.hr is None else _plane(self.hr, hr),
            lr=_plane(self.lr, [image.lr for image in kept]),
            skipped=tuple(skipped),
            digests=tuple(image.digest for image in kept),
        )

    def _too_small(self, image: Stored, lr_patch: int) -> str:
        size, patch = (image.lr, lr_patch) if image.hr is None else (image.hr, lr_patch * self.scale)
        return f"{size.width}x{size.height} is smaller than a patch of {patch}x{patch}"


def _plane(flat: torch.Tensor, extents: Sequence[Extent]) -> Plane:
    columns = ([getattr(extent, field) for extent in extents] for field in ("start", "height", "width"))
    return Plane(flat, *(torch.tensor(column) for column in columns))
