"""The image sizes of an engine: the smallest, the one it is tuned for, the largest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from compressor.base.errors import SrkdError, UsageError
from compressor.models.networks.base import Descriptor

Shape = tuple[int, int, int, int]
"""A shape as (N, C, H, W)."""

Size = tuple[int, int]
"""An image size as (width, height)."""

TUNED_FOR = 256
LARGEST = 512
"""Sides of the default sizes. TensorRT reserves memory for the largest from the start; larger pictures are tiled."""


def as_shape(sides: Sequence[int]) -> Shape:
    """Return four sides as integers; ValueError if there are not four."""
    batch, channels, height, width = (int(side) for side in sides)
    return batch, channels, height, width


@dataclass(frozen=True)
class OptimizationProfile:
    """The range of shapes of an engine's only input."""

    smallest: Shape
    tuned: Shape
    largest: Shape

    def __post_init__(self) -> None:
        for low, middle, high in zip(*self.shapes, strict=True):
            if not 1 <= low <= middle <= high:
                raise UsageError(f"sizes {self}: each must be at least as large as the one before, in width and height")

    def __str__(self) -> str:
        """The sizes as text: 16x16,256x256,512x512."""
        return ",".join("{}x{}".format(*size_of(shape)) for shape in self.shapes)

    @property
    def fixed_size(self) -> Size | None:
        """The only size of the engine; None if it supports several."""
        return size_of(self.largest) if self.smallest[2:] == self.largest[2:] else None

    def takes(self, height: int, width: int) -> bool:
        low, high = self.smallest, self.largest
        return low[2] <= height <= high[2] and low[3] <= width <= high[3]

    @property
    def shapes(self) -> tuple[Shape, Shape, Shape]:
        return self.smallest, self.tuned, self.largest


def size_of(shape: Shape) -> Size:
    return shape[3], shape[2]


def static_profile(channels: int, size: Size) -> OptimizationProfile:
    shape = (1, channels, size[1], size[0])
    return OptimizationProfile(shape, shape, shape)


def dynamic_profile(model: Descriptor, sizes: tuple[Size, Size] | None = None) -> OptimizationProfile:
    """The profile for one image, from the model's smallest size up; `sizes` are tuned and largest."""
    multiple = model.size_multiple
    least = -(-model.min_size // multiple) * multiple
    for width, height in sizes or ():
        if min(width, height) < least or width % multiple or height % multiple:
            raise SrkdError(f"size {width}x{height}: this network takes multiples of {multiple}, from {least}x{least}")
    squares = [max(least, side // multiple * multiple) for side in (TUNED_FOR, LARGEST)]
    tuned, largest = sizes or ((side, side) for side in squares)
    shapes = ((1, model.channels, height, width) for width, height in ((least, least), tuned, largest))
    return OptimizationProfile(*shapes)
