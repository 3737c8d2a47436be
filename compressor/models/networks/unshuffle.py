"""Networks that unshuffle the image first: its u×u squares of pixels become channels, mirrored to a multiple of u."""

from __future__ import annotations

import copy

import torch
from torch.nn import functional as F

from compressor.images.resize import reflected_indices
from compressor.models.networks.base import Descriptor, Network


class UnshufflingNetwork(Network):
    """A network whose spec may have `unshuffle`, the side u of the squares; 1: the image as it is."""

    mirrored: tuple[list[int], list[int]] | None = None
    """In a form for images of one size: the rows and columns that are repeated behind the last ones."""

    def stem(self, lr: torch.Tensor) -> torch.Tensor:
        return super().stem(self.unshuffled(lr))

    @property
    def side(self) -> int:
        return getattr(self.spec, "unshuffle", 1)

    def bounded(self, radius: int, more: int = 0) -> Descriptor:
        """Return the descriptor for a radius in squares and in pixels: tiles keep to the grid of the squares."""
        u = self.side
        return Descriptor(
            scale=self.spec.scale,
            channels=self.spec.channels,  # type: ignore[attr-defined]
            receptive_radius=radius * u + more,
            window=u,
            mirror_repeats_edge=u == 1,
        )

    def unshuffled(self, lr: torch.Tensor) -> torch.Tensor:
        """Return the image with its squares as channels, mirrored to whole squares on the right and at the bottom."""
        if self.side == 1:
            return lr
        for dim in (-2, -1):
            if self.mirrored is None:
                lr = lr.index_select(dim, self._positions(lr.shape[dim], lr.device))
            elif self.mirrored[dim]:
                lr = torch.cat([lr, *(_part(lr, dim, place, place + 1) for place in self.mirrored[dim])], dim)
        return F.pixel_unshuffle(lr, self.side)

    def _positions(self, length: int, device: torch.device) -> torch.Tensor:
        """Return the source position, on an axis of `length`, of each position of the padded axis."""
        padded = (length + self.side - 1) // self.side * self.side
        return reflected_indices(torch.arange(padded, device=device), length, repeat_edge=False)

    def cropped(self, sr: torch.Tensor, lr: torch.Tensor) -> torch.Tensor:
        """Return the image without what was mirrored."""
        if self.side == 1:
            return sr
        for dim in (-2, -1):
            if self.mirrored is None:  # not a slice: a trace would decide once whether it covers everything
                sr = sr.index_select(dim, torch.arange(lr.shape[dim] * self.spec.scale, device=sr.device))
            elif self.mirrored[dim]:
                sr = _part(sr, dim, 0, -len(self.mirrored[dim]) * self.spec.scale)
        return sr

    def for_size(self, height: int, width: int) -> Network:
        if self.side == 1:
            return self
        fixed, cpu = copy.copy(self), torch.device("cpu")
        rows, columns = (self._positions(length, cpu)[length:].tolist() for length in (height, width))
        fixed.mirrored = (rows, columns)
        return fixed


def _part(image: torch.Tensor, dim: int, start: int, stop: int) -> torch.Tensor:
    """Return rows or columns by the slices that every converter knows."""
    return image[:, :, start:stop] if dim == -2 else image[:, :, :, start:stop]
