"""Which images an engine takes: the smallest, the one it is tuned for, the largest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from compressor.base.errors import SrkdError, UsageError

Shape = tuple[int, int, int, int]
"""N, C, H, W."""

Size = tuple[int, int]
"""Width and height."""

TUNED_FOR = (256, 256)
LARGEST = (512, 512)
"""TensorRT keeps memory for the largest from the start; larger pictures are cut into tiles."""


@dataclass(frozen=True)
class Shapes:
    """An optimization profile of one input."""

    smallest: Shape
    tuned: Shape
    largest: Shape

    def __post_init__(self) -> None:
        for low, middle, high in zip(self.smallest, self.tuned, self.largest, strict=True):
            if not 1 <= low <= middle <= high:
                raise UsageError(
                    f"sizes {self.told()}: each must be at least as large as the one before it, in width and in height"
                )

    @property
    def fixed(self) -> Size | None:
        """The only size it takes; None: several."""
        return size_of(self.largest) if self.smallest[2:] == self.largest[2:] else None

    def takes(self, height: int, width: int) -> bool:
        low, high = self.smallest, self.largest
        return low[2] <= height <= high[2] and low[3] <= width <= high[3]

    def told(self) -> str:
        return ",".join("{}x{}".format(*size_of(shape)) for shape in (self.smallest, self.tuned, self.largest))

    def range(self) -> str:
        """16x16 to 512x512."""
        low, high = ("{}x{}".format(*size_of(shape)) for shape in (self.smallest, self.largest))
        return f"{low} to {high}"

    def to_dict(self) -> dict[str, list[int]]:
        return {"min": list(self.smallest), "opt": list(self.tuned), "max": list(self.largest)}

    @classmethod
    def from_dict(cls, told: Mapping[str, Sequence[int]]) -> Shapes:
        """From JSON; ValueError, KeyError or TypeError where it is no such thing."""
        return cls(*(_shape(told[name]) for name in ("min", "opt", "max")))


def size_of(shape: Shape) -> Size:
    return shape[3], shape[2]


def dynamic_shapes(channels: int, smallest: int, multiple: int, sizes: tuple[Size, Size] | None = None) -> Shapes:
    """One image at a time, from the smallest that the network takes; `sizes` are the tuned and the largest."""
    least = -(-smallest // multiple) * multiple
    for width, height in sizes or ():
        if min(width, height) < least or width % multiple or height % multiple:
            raise SrkdError(f"size {width}x{height}: this network takes multiples of {multiple}, from {least}x{least}")
    tuned, largest = sizes or (_as_multiple(TUNED_FOR, least, multiple), _as_multiple(LARGEST, least, multiple))
    low, middle, high = (static_shapes(channels, size).largest for size in ((least, least), tuned, largest))
    return Shapes(low, middle, high)


def _as_multiple(size: Size, least: int, multiple: int) -> Size:
    width, height = (max(least, side // multiple * multiple) for side in size)
    return width, height


def static_shapes(channels: int, size: Size) -> Shapes:
    shape = (1, channels, size[1], size[0])
    return Shapes(shape, shape, shape)


def _shape(sides: Sequence[int]) -> Shape:
    batch, channels, height, width = (int(side) for side in sides)
    return batch, channels, height, width
